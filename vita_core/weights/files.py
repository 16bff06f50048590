"""Write files atomically, and hash them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vita_core import interrupts
from vita_core.errors import VitaError
from vita_core.weights.locks import locked

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]  # mypy takes it for a module

__all__ = [
    "append",
    "append_line",
    "filling",
    "hashes",
    "sha256",
    "whole_directory",
    "write_text",
    "write_whole",
    "writing",
]

CHUNK = 1 << 22
"""How many bytes are hashed at once."""
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
TOLD = re.compile(rf"os error ({'|'.join(map(str, FULL))})\b|inline_container")
"""What safetensors and torch say of a full disk. torch only says that its archive is shorter than it should be."""


SCRATCH = re.compile(r"\..*\.[0-9a-f]{8}\.partial")
"""The name of a directory in which something is written. The process that writes keeps it locked."""
ELSEWHERE = "another path"


@contextmanager
def filling(path: Path, needed: int | None = None, other: str = ELSEWHERE) -> Iterator[None]:
    """Convert what a block raises on a full disk while it writes `path`, of `needed` bytes, to a VitaError that names it.

    `other` is what the user can do instead of freeing space.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if getattr(error, "errno", None) not in FULL and not TOLD.search(str(error)):
            raise
        sizes = f"{_free(path):,} are free" if needed is None else f"{needed:,} are needed, {_free(path):,} are free"
        limit = ", or the file is larger than `ulimit -f` allows" if _limited() else ""
        raise VitaError(
            f"cannot write {path}: no space is left on the disk{limit}, in bytes: {sizes}. Try: free some space and run the "
            f"same command again, or {other}"
        ) from error


@contextmanager
def writing(path: Path, needed: int | None = None, other: str = ELSEWHERE) -> Iterator[None]:
    """Do what `filling` does, and convert other errors of writing too, such as a missing permission."""
    try:
        with filling(path, needed, other):
            yield
    except (OSError, SafetensorError) as error:
        raise VitaError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}. Try: {other}, or check the "
            "permissions of its directory"
        ) from error


def _limited() -> bool:
    """Return whether this process may only write files up to a size, which looks like a full disk."""
    return resource is not None and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _free(path: Path) -> int:
    """Return how many bytes are free on the disk of `path`, which may not exist."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(there).free


def write_whole(path: Path, write: Callable[[Path], Any], needed: int | None = None, other: str = ELSEWHERE) -> None:
    """Write a file of `needed` bytes atomically: call ``write`` with a temporary path, then move that file to `path`.

    The file gets the permissions of the user's umask. Other processes may write it at the same time: the last one counts.
    Raises VitaError if it cannot be written (see `writing`).
    """
    with writing(path, needed, other), _scratch(path) as scratch:
        partial = scratch / path.name
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors creates files that only their owner can read
        partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically (see `write_whole`)."""
    content = text.encode()
    write_whole(path, lambda partial: partial.write_bytes(content), len(content))


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """Yield a new directory, which takes the place of `target` at the end of the block, whether that exists or not.

    A process that is killed at any moment leaves the old directory or the new one. Raises VitaError if it cannot be written.
    """
    with writing(target), _scratch(target) as scratch:
        made, old = scratch / "made", target.with_name(f".{target.name}.old")
        if old.exists():  # of a process that was killed where directories cannot be exchanged
            shutil.rmtree(old) if target.exists() else old.rename(target)
        made.mkdir()
        yield made
        if not target.exists() or not any(target.iterdir()):
            made.rename(target)
        elif not _exchanged(made, target):
            target.rename(old)
            try:
                made.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """Yield a new directory beside `target`, and delete those that killed processes have left there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(".*.partial"):
        if SCRATCH.fullmatch(left.name) and (lock := locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    scratch = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex[:8]}.partial")
    with interrupts.temporary(scratch):
        scratch.mkdir()
        lock = locked(scratch)
        scratch.mkdir(exist_ok=True)  # another process may have been faster
        try:
            yield scratch
        finally:
            if lock is not None:
                os.close(lock)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two directories in one step. Return False where the system cannot."""
    try:
        exchange = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    here, flag = -100, 2  # AT_FDCWD, RENAME_EXCHANGE (man 2 renameat2)
    return bool(exchange(here, os.fsencode(one), here, os.fsencode(other), flag) == 0)


def append_line(path: Path, text: str) -> None:
    """Append a line of `text` to a file (see `append`)."""
    append(path, (text + "\n").encode("utf-8", "backslashreplace"))


def append(path: Path, content: bytes) -> None:
    """Append whole lines to a file in one call, so that those of several processes do not mix.

    Raises VitaError if they cannot be written, and then leaves nothing of them.
    """
    with writing(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if (written := os.write(place, content)) < len(content):  # what fits
                os.ftruncate(place, os.fstat(place).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(place)


def sha256(path: Path, advance: Callable[[int], Any] = lambda count: None) -> str:
    """Return the SHA-256 of a file, in hexadecimal. `advance` is called with the number of bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a directory and below it, by its relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256(path) for path in files}
