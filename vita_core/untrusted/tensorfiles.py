"""Read the keys of tensor files, and the dictionary of tensors in a pickle. Code in a pickle never runs."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vita_core.errors import CheckpointError
from vita_core.untrusted.jsonfiles import parse_json
from vita_core.untrusted.limits import CONFIG

__all__ = [
    "open_pickle",
    "open_safetensors",
    "read_header",
    "reading",
    "stated",
    "tensor_keys",
    "tensor_shapes",
    "tensors_sha256",
]

MOST_HEADER = 32_000_000
"""The most bytes of a safetensors header. 100,000 tensors take a third of it; the library would read three times as much."""
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""How the files begin that torch writes now, and wrote until 1.5."""

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
    for path in files:
        with reading(path):
            if path.suffix == ".safetensors":
                with open_safetensors(path) as handle:
                    for key in handle.keys():  # noqa: SIM118  # the handle is not a mapping
                        yield key, tuple(handle.get_slice(key).get_shape())
            else:
                yield from ((key, tuple(tensor.shape)) for key, tensor in open_pickle(path).items())


def stated(files: Sequence[Path]) -> dict[str, str]:
    """Return what safetensors files state beside their tensors. Raises CheckpointError for an unreadable file."""
    found: dict[str, str] = {}
    for path in files:
        if path.suffix == ".safetensors":
            with reading(path), open_safetensors(path) as handle:
                found |= handle.metadata() or {}
    return found


def open_safetensors(path: Path, framework: str = "np") -> Any:
    """Return the library's handle of a safetensors file, a context manager. Raises the library's errors and CheckpointError."""
    from safetensors import safe_open

    with _opened(path) as file:
        _header_size(file, path)
    return safe_open(
        path, framework=framework
    )  # it checks dtypes, and that the offsets cover the file without overlaps


def _opened(path: Path) -> BinaryIO:
    """Open a file to read. Raises OSError, and CheckpointError for a pipe or a device, which would have no end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CheckpointError(f"{path}: a device or a pipe, not a file. Try: save the weights to a file first")
    return path.open("rb")


def _header_size(file: BinaryIO, path: Path) -> int:
    """Return the bytes of a header that begins behind its own size. Raises CheckpointError."""
    size, whole = int.from_bytes(file.read(8), "little"), path.stat().st_size
    if size > min(whole, MOST_HEADER):
        most = f"at most {MOST_HEADER:,} are read" if size <= whole else f"the file has {whole:,}"
        raise CheckpointError(
            f"cannot read {path}: it is truncated or not a safetensors file (a header of {size:,} bytes, but {most}). "
            "Try: copy or download it again"
        )
    return size


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and the place of the first tensor. Raises OSError and CheckpointError."""
    with _opened(path) as file:
        size = _header_size(file, path)
        header = parse_json(file.read(size), str(path), CONFIG)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not a JSON object. Try: copy or download it again")
    return header, 8 + size


def _check_start(path: Path) -> None:
    """Raise CheckpointError for a file that torch did not write, or wrote compressed: a few bytes would fill the memory."""
    with _opened(path) as file:
        start = file.read(8)
    reason = "it is empty" if not start else f"it begins with {start!r}"
    if start.startswith(ZIP):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
            packed, reason = ["."], _first_line(error)
        else:
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):  # as torch tells them
                raise _torchscript(path)
            reason = f"{packed[0][:80]!r} in it is compressed" if packed else ""
        if not packed:
            return
    elif start.startswith(PICKLE):
        return
    raise CheckpointError(
        f"cannot read {path}: it is truncated or not a checkpoint ({reason}). Try: copy or download it again"
    )


def _torchscript(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is a TorchScript archive: it holds code beside the tensors, and is not opened. Try: save its tensors "
        f"once, if you trust it: `torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pt')`"
    )


def open_pickle(path: Path) -> dict[str, Any]:
    """Return the tensors of a file that torch saved, by key, memory-mapped. Raises torch's errors and CheckpointError."""
    import torch

    _check_start(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise _torchscript(path) from error
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
    with reading(file), _opened(file) as opened:
        header, start = read_header(file)
        header.pop("__metadata__", None)
        digest = hashlib.sha256()
        for key in sorted(header):
            begin, end = header[key]["data_offsets"]
            digest.update(json.dumps([key, header[key]["dtype"], header[key]["shape"]]).encode())
            opened.seek(start + begin)
            for at in range(begin, end, CHUNK):
                digest.update(opened.read(min(CHUNK, end - at)))
    return digest.hexdigest()
