"""Write files atomically, and hash them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vita_core.errors import VitaError

__all__ = ["append_line", "filling", "sha256", "write_text", "write_whole", "writing"]

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
TOLD = re.compile(rf"os error ({'|'.join(map(str, FULL))})\b|inline_container")
"""What safetensors and torch say of a full disk. torch only says that its archive is shorter than it should be."""


@contextmanager
def filling(path: Path, needed: int | None = None) -> Iterator[None]:
    """Convert what a block raises on a full disk while it writes `path`, of `needed` bytes, to a VitaError that names it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if getattr(error, "errno", None) not in FULL and not TOLD.search(str(error)):
            raise
        sizes = f"{_free(path):,} are free" if needed is None else f"{needed:,} are needed, {_free(path):,} are free"
        raise VitaError(
            f"cannot write {path}: no space is left on the disk, in bytes: {sizes}. Try: free some space and run the same "
            "command again, or another directory"
        ) from error


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Do what `filling` does, and convert other errors of writing too, such as a missing permission."""
    try:
        with filling(path, needed):
            yield
    except (OSError, SafetensorError) as error:
        raise VitaError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}. Try: another path, or check the "
            "permissions of its directory"
        ) from error


def _free(path: Path) -> int:
    """Return how many bytes are free on the disk of `path`, which may not exist."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(there).free


def write_whole(path: Path, write: Callable[[Path], Any], needed: int | None = None, *, shared: bool = False) -> None:
    """Write a file of `needed` bytes atomically: call ``write`` with a temporary path, then rename that file to `path`.

    The file gets the permissions of the user's umask. If it is `shared`, other processes may write it at the same time.
    Raises VitaError if it cannot be written.
    """
    own = f".{uuid.uuid4().hex}" if shared else ""
    partial = path.with_name(f".{path.stem}{own}.partial{path.suffix}")
    with writing(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.touch()
            mode = partial.stat().st_mode
            write(partial)
            partial.chmod(mode)  # safetensors creates files that only their owner can read
            partial.replace(path)
        finally:
            with suppress(OSError):  # an error here must not replace the one that is being raised
                partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically (see `write_whole`)."""
    content = text.encode()
    write_whole(path, lambda partial: partial.write_bytes(content), len(content))


def append_line(path: Path, text: str) -> None:
    """Append a line to a file in one call, so that the lines of several processes do not mix.

    Raises VitaError if it cannot be written, and then leaves nothing of it.
    """
    line = (text + "\n").encode("utf-8", "backslashreplace")
    with writing(path, len(line)):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if (written := os.write(place, line)) < len(line):  # what fits
                os.ftruncate(place, os.fstat(place).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(place)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
