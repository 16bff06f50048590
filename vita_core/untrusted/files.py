"""Read whole files of a bounded size, and only files: a pipe or a device would never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vita_core.errors import CheckpointError

__all__ = ["TooLargeError", "check_name", "inside", "read_bytes", "read_tail"]

LONGEST = 255
"""The most bytes of a file's name."""


class TooLargeError(ValueError):
    """A file has more bytes than are read."""


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes. Raises OSError, and ValueError with the reason for other files."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):  # open() says it best for a directory
        raise ValueError("it is a device or a pipe")
    with path.open("rb") as file:
        content = file.read(most + 1)  # not the size: it may still grow
    if len(content) > most:
        raise TooLargeError(f"it has more than {most:,} bytes")
    return content


def read_tail(path: Path, most: int) -> bytes:
    """Return the last bytes of a file, `most` of them or all. Raises OSError."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, most), os.SEEK_END)
        return file.read(most)


def check_name(name: object, where: str) -> None:
    """Raise CheckpointError unless a name, which a file states at the place `where`, is that of a file beside it."""
    plain = isinstance(name, str) and Path(name).name == name and name not in ("", "..") and not set(name) & set("\\\0")
    plain = plain and len(str(name).encode(errors="replace")) <= LONGEST
    if not plain:
        raise CheckpointError(f"{where}: not the name of a file beside it: {name!r:.300}. Try: download it again")


def inside(directory: Path, name: str, listed_in: Path) -> Path:
    """Return the path of a file in a `directory` that another file, `listed_in`, names. It may be missing.

    It may be a link if it leads to a file of the same directory or, in huggingface_hub's cache, to one of the repository's
    ``blobs``. Raises CheckpointError for any other link or name.
    """
    check_name(name, str(listed_in))
    path = directory / name
    if path.is_symlink():
        target, here = path.resolve(), directory.resolve()
        blobs = [here.parents[1] / "blobs"] if here.parent.name == "snapshots" else []
        if target.parent not in (here, *blobs):
            raise CheckpointError(
                f"{listed_in}: {name!r} is a link out of its directory, to {target}. Try: copy that file to {directory}, if you "
                "trust where it came from"
            )
    return path
