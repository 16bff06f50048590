"""A folder of pictures, each with a caption in a ``.txt`` file of the same name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vita_core.errors import ConfigError
from vita_core.training.data.samples import PictureRef, Sample, SampleError, Turn, UnansweredError
from vita_core.untrusted.files import read_bytes
from vita_core.untrusted.limits import ROW

__all__ = ["SUFFIXES", "FolderSource", "file_of_rows"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class FolderSource:
    """The pictures below a folder, in sorted order, or those of them that are given; then so many others are `left_out`."""

    def __init__(self, folder: Path, pictures: Sequence[Path] | None = None, left_out: int = 0) -> None:
        found = pictures if pictures is not None else folder.rglob("*")
        self.folder, self.left_out = folder, left_out
        self.pictures = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
        self.blocks = (len(self.pictures),)

    def __len__(self) -> int:
        return len(self.pictures)

    def captioned(self, key: str) -> FolderSource:
        """Return the pictures with a caption. Raises ConfigError if there are none; `key` is how it names the data set."""
        found = [path for path in self.pictures if path.with_suffix(".txt").is_file()]
        if not found:
            first = self.pictures[0]
            advice = file_of_rows(self.folder, key) or "a .txt file with its caption next to each picture"
            raise ConfigError(
                f"{key}: none of the {len(self):,} pictures in {self.folder} has a caption in a .txt file of its name, such as "
                f"{first.with_suffix('.txt').name}. Try: {advice}"
            )
        return FolderSource(self.folder, found, len(self) - len(found))

    def sample(self, index: int) -> Sample:
        """Return a picture with its caption. Raises SampleError, without one UnansweredError."""
        picture = self.pictures[index]
        file = picture.with_suffix(".txt")
        where = f"{file}:1:1"
        try:
            caption = read_bytes(file, ROW.bytes).decode("utf-8").strip()
        except FileNotFoundError:
            bare = Sample((PictureRef(str(picture), picture),), (), where=str(picture))
            raise UnansweredError(f"there is no {file.name}", bare) from None
        except (OSError, ValueError) as error:
            raise SampleError("a text that cannot be read", str(error), where) from None
        if not caption:
            raise SampleError("empty text", "the caption is empty", where)
        return Sample((PictureRef(str(picture), picture),), (Turn(None, caption),), where=where)


def file_of_rows(folder: Path, key: str) -> str:
    """Return the advice to name the file of rows in a folder, not the folder. It is empty if there is no such file."""
    files = [*sorted(folder.glob("*.jsonl")), *sorted(folder.glob("*.json"))] if folder.is_dir() else []
    if not files:
        return ""
    return f"{key} {shlex.quote(str(files[0]))}" if key.startswith("--") else f"the file {files[0]}"
