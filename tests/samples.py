"""Small valid files of every kind that comes from outside, which the tests of tests/outside/ then break."""

from __future__ import annotations

import io
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

from conftest import GOLDEN
from PIL import Image, ImageDraw

CONFIG = {
    "tower": {
        "weights": "./clip",
        "type": "clip",
        "select_layer": -2,
        "select_feature": "patch",
        "dtype": "float32",
        "freeze": True,
        "pool": [2, 2],
    },
    "projector": {"type": "mlp2x_gelu", "options": {}},
    "llm": {"weights": "./llm", "dtype": "float32", "adapter": None},
    "images": {"aspect": "pad", "max_pixels": 1000, "tiles": {"max": 4, "min": 1, "thumbnail": True}},
    "prompt": {"system": "You see a picture .", "template": "chat"},
    "generation": {"max_new_tokens": 5, "temperature": 0.5},
    "data": {"captions": {"path": "./captions.jsonl", "held_out": 0.25}},
    "training": {
        "stages": [{"name": "align", "train": {"projector": "full"}, "steps": 3, "learning_rate": 1e-3}],
        "seed": 1,
    },
    "device": "cpu",
}
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF")
ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "caption": "a red square ."},
    {"image": ["a.png"], "conversations": [{"from": "human", "value": "<image>\nWhat ?"}, {"from": "gpt", "value": "It ."}]},
    {"images": ["a.png"], "messages": [{"role": "user", "content": "What ?"}, {"role": "assistant", "content": "It ."}]},
]  # fmt: skip


@cache
def picture(kind: str) -> bytes:
    """A picture of 40 x 30 pixels with a shape in it; an animation where the format has them."""
    frames = []
    for place in range(2):
        frame = Image.new("RGB", (40, 30), (200, 30, 90))
        ImageDraw.Draw(frame).ellipse((5 + place, 5, 30, 25), fill=(20, 200, 60))
        frames.append(frame)
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]} if kind in ("GIF", "WEBP", "TIFF") else {}
    options |= {"TIFF": {"compression": "tiff_lzw"}, "PNG": {"dpi": (72, 72)}}.get(kind, {})
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def tar() -> bytes:
    """A shard of two samples, as WebDataset has them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for place in range(2):
            for suffix, content in (("png", picture("PNG")), ("json", json.dumps({"caption": "a ."}).encode())):
                member = tarfile.TarInfo(f"{place:04}.{suffix}")
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@cache
def parquet() -> bytes:
    """A table of two rows, with stored pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": picture("PNG"), "path": "a.png"}, "caption": "a ."}] * 2
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


@cache
def weights() -> bytes:
    """The tensors of the golden CLIP tower."""
    return (GOLDEN / "clip" / "model.safetensors").read_bytes()


def config_of(name: str) -> dict[str, Any]:
    """The ``config.json`` of a golden checkpoint."""
    found: dict[str, Any] = json.loads((GOLDEN / name / "config.json").read_text())
    return found


def processor_of(name: str) -> dict[str, Any]:
    """The ``preprocessor_config.json`` of a golden checkpoint."""
    found: dict[str, Any] = json.loads((GOLDEN / name / "preprocessor_config.json").read_text())
    return found


INDEX = {"metadata": {"total_size": 5}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


def copied(name: str, folder: Path, **files: bytes) -> Path:
    """A golden checkpoint, with other content in some of its files."""
    made = folder / name
    made.mkdir(exist_ok=True)
    for file in (GOLDEN / name).iterdir():
        if not file.name.startswith("expected"):
            (made / file.name).write_bytes(file.read_bytes())
    for file_name, content in files.items():
        (made / file_name).write_bytes(content)
    return made


@cache
def folder() -> Path:
    """A folder for valid files, which is removed at the end of the process."""
    import atexit
    import shutil
    import tempfile

    made = Path(tempfile.mkdtemp(prefix="vita-samples-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def picture_file() -> Path:
    """A valid picture."""
    file = folder() / "a.png"
    file.write_bytes(picture("PNG"))
    return file


@cache
def data_file() -> Path:
    """A valid JSONL."""
    picture_file()
    file = folder() / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@cache
def small_weights() -> bytes:
    """A safetensors file of some 10 kB, as the library writes it."""
    import torch
    from safetensors.torch import save

    tensors = {f"vision_model.layer.{place}.weight": torch.full((16, 16), float(place)) for place in range(8)}
    return save(tensors, {"format": "pt"})
