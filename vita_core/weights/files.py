"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vita_core.errors import VitaError

__all__ = ["sha256", "write_text", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary path)`` and rename; the file gets the usual permissions. Raises VitaError."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors writes through a temporary file that is its owner's alone
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise VitaError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        with suppress(OSError):  # the error that is being told is the one that matters
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8, by `write_whole`."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
