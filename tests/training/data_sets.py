"""Small data sets of pictures of one colour, and what the tests read of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vita_core.config.data import DataSetConfig
from vita_core.training.data import Sample, SampleError, Source, open_source, picture_of

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def write_pictures(folder: Path) -> Path:
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 6), colour).save(folder / f"{name}.png")
    return folder


def opened(path: Path | str, **settings: Any) -> Source:
    return open_source(DataSetConfig(path=str(path), **settings))


def every(source: Source) -> list[Sample]:
    assert sum(source.blocks) == len(source)
    return [source.sample(index) for index in range(len(source))]


def bad(source: Source, index: int = 0) -> SampleError:
    with pytest.raises(SampleError) as told:
        source.sample(index)
    return told.value


def colours(samples: list[Sample]) -> list[list[tuple[int, ...]]]:
    return [[picture_of(ref).getpixel((0, 0)) for ref in sample.pictures] for sample in samples]


def write(file: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows) if file.suffix == ".jsonl" else json.dumps(list(rows))
    file.write_text(text)
    return file


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if place % 2 else "human", "value": text} for place, text in enumerate(texts)]


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), COLOURS[name]).save(buffer, "PNG")
    return buffer.getvalue()
