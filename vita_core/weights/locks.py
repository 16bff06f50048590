"""Directories and files that one process has for itself. The lock ends with the process, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vita_core.errors import VitaError

try:
    import fcntl
except ImportError:  # not on Windows: what a killed process leaves there stays
    fcntl = None  # type: ignore[assignment]  # mypy takes it for a module

__all__ = ["alone", "locked"]


def locked(folder: Path) -> int | None:
    """Return a descriptor that keeps a directory locked, or None if another process has it, or there are no locks here."""
    try:
        return _lock(folder)
    except BlockingIOError:
        return None


@contextmanager
def alone(place: Path, command: str) -> Iterator[None]:
    """Keep a directory or a file locked until the end of the block. Nothing is locked where the system or the disk has no locks.

    Raises VitaError if another process has it: `command` is what that may be.
    """
    try:
        lock = _lock(place)
    except BlockingIOError:
        raise VitaError(
            f"{place}: another process is writing to it, such as the same `{command}`. Try: wait until it has ended, or another "
            "place to write to"
        ) from None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Return a descriptor of a locked directory or file, or None. Raises BlockingIOError if another process has it."""
    if fcntl is None:
        return None
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:  # deleted by another process
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a disk without locks
        os.close(lock)
        return None
    return lock
