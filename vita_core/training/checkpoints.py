"""The checkpoints of a training on disk: which were written to their end and are still the same bytes."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

from vita_core.untrusted.jsonfiles import read_object
from vita_core.weights.files import write_text

__all__ = ["drop_halves", "drop_old", "last_checkpoint", "seal"]

SEAL = "checksums.json"
"""The file with the checksum of each other file of a checkpoint."""
CHUNK = 1 << 24


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder in the order of their steps."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))


def seal(checkpoint: Path) -> None:
    """Write the checksums of a finished checkpoint. Raises VitaError if there is no space."""
    write_text(checkpoint / SEAL, json.dumps(_checksums(checkpoint), indent=1))


def last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint in a folder that was written to its end and is not damaged since."""
    return next((str(path) for path in reversed(checkpoints(folder)) if _is_whole(path)), None)


def drop_old(folder: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints."""
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def drop_halves(folder: Path, keep: int) -> None:
    """Delete the checkpoints that were not written to their end or are damaged, and of the others all but the last `keep`."""
    for path in checkpoints(folder):
        if not _is_whole(path):
            shutil.rmtree(path, ignore_errors=True)
    drop_old(folder, keep)


def _checksums(checkpoint: Path) -> dict[str, int]:
    found = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != SEAL:
            value = 0
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK):
                    value = zlib.crc32(chunk, value)
            found[file.relative_to(checkpoint).as_posix()] = value
    return found


def _is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint still is as it was sealed, which is the last thing that is done to it."""
    try:
        return read_object(checkpoint / SEAL) == _checksums(checkpoint)
    except (OSError, ValueError):
        return False
