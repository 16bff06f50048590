"""Read captioned pictures: a folder of pictures with .txt files, a JSONL of {image, caption}, or a LLaVA JSON."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vita_core.errors import ConfigError, nearest
from vita_core.training.data.samples import PictureRef, Sample, Turn

__all__ = ["SUFFIXES", "read_samples"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def read_samples(path: Path) -> list[Sample]:
    """Return all samples of a data set. Picture paths in a file are relative to the file.

    Raises ConfigError, with file and line, for a row without image or caption. Also raises ConfigError if a picture does
    not exist, or if there are no samples.
    """
    if path.is_dir():
        rows = _folder(path)
    elif path.suffix == ".jsonl":
        rows = _jsonl(path)
    elif path.suffix == ".json":
        rows = _llava(path)
    else:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "neither a folder nor a .jsonl or .json file" if path.exists() else "no such file or directory"
        raise ConfigError(
            f"--data: {what}: {path}.{nearest(path.name, siblings)} Try: a folder of pictures with .txt files, a .jsonl of "
            "{image, caption}, or a LLaVA .json"
        )
    samples = list(rows)
    if not samples:
        raise ConfigError(
            f"--data: no picture with a caption in {path}. Try: a folder with a .txt file next to each picture, or a .jsonl "
            "or .json file with at least one row"
        )
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    if missing:
        raise ConfigError(
            f"--data: {len(missing)} of {len(samples)} pictures are missing, such as {missing[0]}. "
            f"Try: copy them there, or correct their paths in {path}"
        )
    return samples


def _folder(path: Path) -> Iterator[Sample]:
    for picture in sorted(path.rglob("*")):
        caption = picture.with_suffix(".txt")
        if picture.suffix.lower() in SUFFIXES and caption.is_file():
            yield _captioned(picture, _text({"caption": _read(caption)}, "caption", f"{caption}:1:1"))


def _captioned(image: Path, caption: str, names: tuple[str, ...] = ()) -> Sample:
    return Sample((PictureRef(str(image), image),), (Turn(None, caption),), names)


def _text(row: Any, key: str, where: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"{where}: {key!r} is missing, empty or not a text: {reprlib.repr(value)}. Try: write a text, or remove this entry"
        )
    return value.strip()


def _jsonl(path: Path) -> Iterator[Sample]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path}:{number}:{error.colno}: not valid JSON: {error.msg}. Try: correct this line"
            ) from error
        where = f"{path}:{number}:1"
        image, caption = path.parent / _text(row, "image", where), _text(row, "caption", where)
        names = row.get("names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ConfigError(
                f'{where}: \'names\' is not a list of texts: {reprlib.repr(names)}. Try: a list such as ["cat", "kitten"]'
            )
        yield _captioned(image, caption, tuple(names))


def _llava(path: Path) -> Iterator[Sample]:
    try:
        rows = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}. Try: correct the file at this place"
        ) from error
    if not isinstance(rows, list):
        raise ConfigError(
            f"{path}:1:1: not a list: {type(rows).__name__}. Try: a LLaVA JSON, a list of {{image, conversations}}"
        )
    for index, row in enumerate(rows):
        where = f"{path}: entry {index}"
        turns = row.get("conversations") if isinstance(row, dict) else None
        said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        answer = next((turn for turn in said if turn.get("from") == "gpt"), None)
        yield _captioned(path.parent / _text(row, "image", where), _text(answer, "value", f"{where}: first gpt turn"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--data: cannot read {path}: {error}. Try: check its permissions, or save it as UTF-8"
        ) from error
