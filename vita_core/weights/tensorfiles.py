"""Read the keys of tensor files, and the dictionary of tensors in a pickle. Code in a pickle never runs."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError

__all__ = ["open_pickle", "reading", "stated", "tensor_keys", "tensor_shapes", "tensors_sha256"]

WRAPPERS = ("state_dict", "model", "module")
"""Keys under which training scripts save the weights, next to the state of the optimizer."""
CHUNK = 1 << 24
"""How many bytes are read at once."""


OPCODES = (LookupError, TypeError, AttributeError, AssertionError, struct.error)
"""What torch raises for a file of text, whose bytes it takes for a pickle's opcodes."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert the exceptions of the libraries that read tensor files to a CheckpointError that names the file."""
    from safetensors import SafetensorError

    try:
        yield
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # text, or bytes of another format
            raise CheckpointError(
                f"cannot read {path}: it is truncated or not a checkpoint. Try: copy or download it again"
            ) from error
        called = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would call {called[1]}" if called else str(error).strip().splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{path} holds more than tensors and is not opened: {reason}. Try: a copy of the weights as safetensors"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"cannot read {path}: it is truncated or not a safetensors file ({_first_line(error)}). "
            "Try: copy or download it again"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, *OPCODES) as error:
        raise CheckpointError(
            f"cannot read {path}: it is truncated or not a checkpoint ({_first_line(error)}). "
            "Try: copy or download it again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def tensor_keys(files: Sequence[Path]) -> Iterator[str]:
    """Yield the key of every tensor in safetensors or torch files. Raises CheckpointError for an unreadable file."""
    yield from (key for key, _ in tensor_shapes(files))


def tensor_shapes(files: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the key and the shape of every tensor in safetensors or torch files. No tensor is read.

    Raises CheckpointError for an unreadable file.
    """
    from safetensors import safe_open

    for path in files:
        with reading(path):
            if path.suffix == ".safetensors":
                with safe_open(path, framework="np") as handle:
                    for key in handle.keys():  # noqa: SIM118  # the handle is not a mapping
                        yield key, tuple(handle.get_slice(key).get_shape())
            else:
                yield from ((key, tuple(tensor.shape)) for key, tensor in open_pickle(path).items())


def stated(files: Sequence[Path]) -> dict[str, str]:
    """Return what safetensors files state beside their tensors. Raises CheckpointError for an unreadable file."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with reading(path), safe_open(path, framework="np") as handle:
                found |= handle.metadata() or {}
    return found


def open_pickle(path: Path) -> dict[str, Any]:
    """Return the tensors of a file that torch saved, by key, memory-mapped. Raises torch's errors and CheckpointError."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript archive: it holds code beside the tensors, and is not opened. Try: save its tensors "
                f"once, if you trust it: `torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pt')`"
            ) from error
        if "mmap" not in str(error):
            raise
        state = torch.load(path, map_location="cpu", weights_only=True)  # files of torch before 1.6 cannot be mapped
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path} is not a dictionary of tensors: a {type(state).__name__}. Try: save the module's state_dict"
        )
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def tensors_sha256(file: Path) -> str:
    """Return the SHA-256 of the tensors of a safetensors file: keys, dtypes, shapes and bytes, in the order of the keys.

    It does not depend on the order in which a library writes the tensors or the metadata.
    """
    with reading(file), file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header.pop("__metadata__", None)
        digest = hashlib.sha256()
        for key in sorted(header):
            begin, end = header[key]["data_offsets"]
            digest.update(json.dumps([key, header[key]["dtype"], header[key]["shape"]]).encode())
            opened.seek(8 + size + begin)
            for at in range(begin, end, CHUNK):
                digest.update(opened.read(min(CHUNK, end - at)))
    return digest.hexdigest()
