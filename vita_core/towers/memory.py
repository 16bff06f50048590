"""What a tower does when the memory of its device is too small for a batch, or the device fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vita_core.errors import VitaError

__all__ = ["in_memory"]

CPU_MEMORY = "DefaultCPUAllocator"
"""What the error of torch contains that says that there is no more memory beside a GPU's."""


def in_memory(run: Callable[[Any], Any], batch: Any, step: int, tower: str) -> Iterator[tuple[Any, Any]]:
    """Yield parts of a batch, with what `run` returns for each: `step` items at once.

    If the memory is too small for a part, the batch goes on in half as many at once, and a warning says so. Raises VitaError
    if it is too small for these too, or for one, and if the device fails.
    """
    start, halved = 0, False
    while start < len(batch):
        part = batch[start : start + step]
        try:
            found = run(part)
        except (MemoryError, RuntimeError) as error:
            if not _no_memory(error):
                _raise_failure(error, tower)
                raise
            if halved or len(part) == 1:
                fewer = f"`tower.max_batch: {len(part) // 2}`, " if len(part) > 1 else ""
                raise VitaError(
                    f"tower {tower!r} is out of memory with a batch of {len(part)}: {_first_line(error)}. Try: {fewer}a smaller "
                    "picture, or another device"
                ) from error
        else:
            yield part, found
            start += len(part)
            continue
        halved, step = True, len(part) // 2
        warnings.warn(
            f"tower {tower!r} is out of memory with a batch of {len(part)}, and goes on with {step}. "
            f"Try: `tower.max_batch: {step}`, which saves the attempt",
            stacklevel=2,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _no_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_MEMORY in str(error)


def _raise_failure(error: Exception, tower: str) -> None:
    """Raise VitaError for an error of the device, which torch reports without what was being computed."""
    # older versions of torch have no AcceleratorError
    if type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error"):
        raise VitaError(
            f"tower {tower!r}: the device failed: {_first_line(error)}. No further computation works in this process. Try: the "
            "same command again; with CUDA_LAUNCH_BLOCKING=1 the error is raised where it happens"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or "no memory").splitlines()[0].partition(". ")[0].rstrip(".")
