"""Captioned pictures: a folder of `picture + .txt`, a JSONL of {image, caption}, or a LLaVA JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.errors import ConfigError, nearest

__all__ = ["Sample", "read_samples"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class Sample:
    """One picture and what is to be said about it; `names` are further accepted names of the thing shown."""

    image: Path
    caption: str
    names: tuple[str, ...] = ()


def read_samples(path: Path) -> list[Sample]:
    """All samples of one data set. Paths in a file are relative to it.

    Raises ConfigError (with file and line) for a row without image or caption, a picture that is missing, or no sample.
    """
    if path.is_dir():
        rows = _folder(path)
    elif path.suffix == ".jsonl":
        rows = _jsonl(path)
    elif path.suffix == ".json":
        rows = _llava(path)
    else:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is neither a folder, a .jsonl nor a .json" if path.exists() else "does not exist"
        raise ConfigError(f"--data {path} {what}.{nearest(path.name, siblings)}")
    samples = list(rows)
    if not samples:
        raise ConfigError(f"--data {path} holds no captioned picture (a folder needs a .txt beside each picture)")
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    if missing:
        raise ConfigError(f"--data {path}: {len(missing)} of {len(samples)} pictures are missing, such as {missing[0]}")
    return samples


def _folder(path: Path) -> Iterator[Sample]:
    for picture in sorted(path.rglob("*")):
        caption = picture.with_suffix(".txt")
        if picture.suffix.lower() in SUFFIXES and caption.is_file():
            yield Sample(picture, _text({"caption": _read(caption)}, "caption", f"{caption}:1:1"))


def _text(row: Any, key: str, where: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}: needs a non-empty text {key!r}, found {value!r}")
    return value.strip()


def _jsonl(path: Path) -> Iterator[Sample]:
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number}:{error.colno}: not valid JSON: {error.msg}") from error
        where = f"{path}:{number}:1"
        image, caption = path.parent / _text(row, "image", where), _text(row, "caption", where)
        names = row.get("names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ConfigError(f"{where}: 'names' must be a list of texts, found {names!r}")
        yield Sample(image, caption, tuple(names))


def _llava(path: Path) -> Iterator[Sample]:
    try:
        rows = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path}:1:1: a LLaVA JSON is a list of {{image, conversations}}, not {type(rows).__name__}")
    for index, row in enumerate(rows):
        where = f"{path}: entry {index}"
        turns = row.get("conversations") if isinstance(row, dict) else None
        said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        answer = next((turn for turn in said if turn.get("from") == "gpt"), None)
        yield Sample(path.parent / _text(row, "image", where), _text(answer, "value", f"{where}: its first gpt turn"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--data {path} cannot be read: {error}") from error
