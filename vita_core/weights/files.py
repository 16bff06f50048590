"""Write files atomically, and hash them."""

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
    """Write a file atomically: call ``write`` with a temporary path, then rename that file to `path`.

    The file gets the permissions of the user's umask. Raises VitaError if it cannot be written.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        write(partial)
        partial.chmod(mode)  # safetensors creates files that only their owner can read
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise VitaError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}. Try: another path, or check the "
            "permissions and the free space of its directory"
        ) from error
    finally:
        with suppress(OSError):  # an error here must not replace the one that is being raised
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically (see `write_whole`)."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
