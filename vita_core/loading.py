"""Read and load tensors strictly: each tensor of a checkpoint is loaded, skipped for a stated reason, or an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vita_core.errors import CheckpointError
from vita_core.layouts.parts import Part, unwrapped
from vita_core.tables import BoundedTables
from vita_core.untrusted.tensorfiles import open_pickle, open_safetensors, reading, tensor_shapes
from vita_core.weights.keyrules import KeyRules

__all__ = [
    "KeyRules",
    "LoadReport",
    "Tensors",
    "check_values",
    "fill",
    "load_into",
    "part_shapes",
    "part_tensors",
    "read_tensors",
    "without_weights",
]

Tensors = Iterable[tuple[str, Callable[[], Tensor]]]
"""Pairs (key, function that reads the tensor). A function must be called before the next pair is taken, or not at all."""


@dataclass
class LoadReport:
    """The result of loading a checkpoint. `skipped` maps each reason to the keys that were skipped for it."""

    loaded: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        skipped = "; ".join(f"{len(keys)} skipped ({reason})" for reason, keys in self.skipped.items())
        return f"{self.loaded} tensors loaded" + (f"; {skipped}" if skipped else "")

    def raise_if_wrong(self, where: str) -> None:
        """Raise CheckpointError with counts and examples if a tensor is missing, unexpected or of another shape."""
        problems = []
        for name, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.mismatched),
        ):
            if keys:
                problems.append(f"{len(keys)} {name} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
        if problems:
            raise CheckpointError(
                f"{where} does not fit: {self.loaded} tensors match; {'; '.join(problems)}. "
                "Try: check that the weights and the config belong to the same model"
            )


class _NoValues(TorchFunctionMode):
    """Skip the initialisation of tensors on the meta device: torch runs it in Python and imports its compiler for it."""

    FILLS = ("normal_", "uniform_", "trunc_normal_", "xavier_uniform_", "kaiming_uniform_", "kaiming_normal_",
             "zero_", "fill_", "mul_", "add_", "erfinv_", "clamp_")  # fmt: skip

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        filled = args[0] if args else given.get("tensor")
        if getattr(func, "__name__", "") in self.FILLS and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return func(*args, **given)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules with their parameters on the meta device, without memory or values. Buffers are real, and bounded.

    Raises LargeTableError for a buffer that takes too much memory.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), _NoValues(), BoundedTables():  # type: ignore[no-untyped-call]  # torch
        yield


def read_tensors(files: Sequence[Path]) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield (key, function that reads the tensor) for every tensor in safetensors or torch files, memory-mapped.

    Pickles are read with ``weights_only=True``, so code in them never runs. Raises CheckpointError naming the file.
    """
    for path in files:
        with reading(path):
            if path.suffix != ".safetensors":
                for key, value in open_pickle(path).items():
                    yield key, lambda value=value: value  # type: ignore[misc]  # a default cannot be typed
                continue
            with open_safetensors(path, "pt") as handle:
                for key in handle.keys():  # noqa: SIM118  # the handle is not a mapping
                    yield key, lambda key=key: handle.get_tensor(key)  # type: ignore[misc]  # as above


def part_tensors(part: Part) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield (key, function that reads the tensor) for the tensors of one stage, under the stage's own keys."""
    for key, read in _overlaid(part):
        own = part.own_key(key)
        if own is not None:
            yield own, read


def part_shapes(part: Part) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of one stage, under the stage's own keys. Only headers are read."""
    trained = [] if part.trained is None else [part.trained]
    shapes = dict(tensor_shapes(part.files)) | {unwrapped(key): shape for key, shape in tensor_shapes(trained)}
    return {own: shape for key, shape in shapes.items() if (own := part.own_key(key)) is not None}


def _overlaid(part: Part) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield the tensors of the part's files. Tensors that were trained with a LoRA adapter replace those of the base with
    the same key; those that the base does not have come last."""
    trained = {} if part.trained is None else {unwrapped(key): read for key, read in read_tensors([part.trained])}
    for key, read in read_tensors(part.files):
        yield key, trained.pop(key, read)
    yield from trained.items()


def load_into(
    module: nn.Module, files: Sequence[Path], rules: KeyRules, *, dtype: torch.dtype, device: torch.device, where: str
) -> LoadReport:
    """Fill `module` with the tensors of `files` (see `fill`)."""
    return fill(module, read_tensors(files), rules, dtype=dtype, device=device, where=where)


def fill(
    module: nn.Module, tensors: Tensors, rules: KeyRules, *, dtype: torch.dtype, device: torch.device, where: str
) -> LoadReport:
    """Fill `module` strictly with `tensors`, cast to `dtype` on `device`. Its parameters may be on the meta device.

    Tensors that already have the dtype and the device stay mapped to the file, without a copy. Raises CheckpointError if a
    tensor is missing, unexpected, of another shape, of integers, or not finite; the module is then not changed.
    """
    wanted = module.state_dict()
    limits = {name for name, buffer in module.named_buffers() if buffer.ndim == 0}
    report, state = LoadReport(), {}
    found: set[str] = set()
    for key, read in tensors:
        name = rules.renamed(key)
        reason = rules.skipped(name)
        if reason is not None:
            report.skipped.setdefault(reason, []).append(key)
            continue
        for target, tensor in _split(name, read, rules):
            if target not in wanted or target in found:  # a second tensor for one key is an error, not a choice
                report.unexpected.append(key)
                continue
            found.add(target)
            if wanted[target].shape != tensor.shape:
                report.mismatched.append(f"{key} {tuple(tensor.shape)} for {tuple(wanted[target].shape)}")
            else:
                floating = tensor.is_floating_point()
                if not (target in limits and torch.isinf(tensor).all()):  # Gemma 4's "no limit"
                    check_values(tensor, key, where, floats=wanted[target].is_floating_point())
                state[target] = tensor.to(device=device, dtype=dtype if floating else None)
    report.loaded = len(state)
    report.missing = [key for key in wanted if key not in found]
    report.raise_if_wrong(where)
    module.load_state_dict(state, strict=True, assign=True)
    for buffer_owner in module.modules():  # tables that checkpoints do not contain (position ids, rotary angles)
        for name, buffer in buffer_owner.named_buffers(recurse=False):
            setattr(buffer_owner, name, buffer.to(device))
    return report


def check_values(tensor: Tensor, key: str, where: str, *, floats: bool) -> None:
    """Raise CheckpointError for a tensor of integers in the place of `floats`, or one that holds NaN or infinite values."""
    if not tensor.is_floating_point():
        if floats:
            raise CheckpointError(
                f"{where}: {key} holds integers ({str(tensor.dtype).removeprefix('torch.')}), as in quantised weights, but the "
                "model computes with floats. Try: the checkpoint that it was made from"
            )
        return
    wide = torch.float32 if tensor.dtype == torch.float16 else None  # sums of bfloat16 have the range of float32 anyway
    if tensor.is_meta or tensor.dtype.itemsize == 1 or math.isfinite(tensor.detach().sum(dtype=wide)):
        return
    wrong = int((~torch.isfinite(tensor)).sum())  # the sum, which is quick, may overflow without any
    if wrong:
        raise CheckpointError(
            f"{where}: {key} holds {wrong:,} values that are not finite numbers. Try: the checkpoint of an earlier step of its "
            "training, or download the file again"
        )


def _split(name: str, read: Callable[[], Tensor], rules: KeyRules) -> Iterator[tuple[str, Tensor]]:
    targets = rules.targets(name)
    if len(targets) == 1:
        yield targets[0], read()
        return
    yield from zip(targets, read().chunk(len(targets), dim=0), strict=True)  # views, so mapped tensors stay mapped
