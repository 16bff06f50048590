"""A folder of pictures, each with a caption in a ``.txt`` file of the same name."""

from __future__ import annotations

from pathlib import Path

from vita_core.training.data.samples import PictureRef, Sample, SampleError, Turn, UnansweredError

__all__ = ["SUFFIXES", "FolderSource"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class FolderSource:
    """The pictures below a folder, in sorted order. If `captioned`, only those with a caption."""

    def __init__(self, folder: Path, *, captioned: bool = False) -> None:
        found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self.pictures = sorted(path for path in found if not captioned or path.with_suffix(".txt").is_file())
        self.blocks = (len(self.pictures),)

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int) -> Sample:
        """Return a picture with its caption. Raises SampleError, without one UnansweredError."""
        picture = self.pictures[index]
        file = picture.with_suffix(".txt")
        where = f"{file}:1:1"
        try:
            caption = file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            bare = Sample((PictureRef(str(picture), picture),), (), where=str(picture))
            raise UnansweredError(f"there is no {file.name}", bare) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SampleError("a text that cannot be read", str(error), where) from None
        if not caption:
            raise SampleError("empty text", "the caption is empty", where)
        return Sample((PictureRef(str(picture), picture),), (Turn(None, caption),), where=where)
