"""The largest memory of a part of a program."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["peak_bytes", "reset_peak"]

SELF = Path("/proc/self")


def reset_peak() -> None:
    """Begin to measure."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        (SELF / "clear_refs").write_text("5")  # Linux: the peak of the resident memory begins again (man 5 proc)


def peak_bytes() -> int | None:
    """Return the largest memory since `reset_peak`: that of tensors on a GPU, else the resident memory of the process.

    It is None where the system does not tell.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (SELF / "status").read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None
