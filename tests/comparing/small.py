"""A small data set and small configs to compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from conftest import GOLDEN
from PIL import Image

KINDS = ("cat", "dog", "cup")
FLAT = {"steps": 2, "batch_size": 4, "warm_start_steps": 1, "warm_start_batch": 4, "variants": 1}
STAGES = [{"name": "align", "train": {"projector": "full"}, "learning_rate": 1e-2, "steps": 2, "batch_size": 4}]


def write_data(folder: Path, count: int = 30) -> Path:
    """A JSONL of different pictures of three kinds."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        noise = rng.integers(0, 255, (8, 8, 3)).astype("uint8")
        noise[..., number % 3] //= 4
        Image.fromarray(noise).resize((56, 56), Image.Resampling.NEAREST).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"a {KINDS[number % 3]} ."})
    (folder / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pictures.jsonl"


def write_config(file: Path, llm: Path, *, tower: str = "clip", training: Any = FLAT, **sections: Any) -> str:
    """A config of a golden tower and the tiny language model."""
    data = {
        "tower": {"weights": str(GOLDEN / tower)},  # an absolute path stays as it is
        "llm": {"weights": str(llm)},
        "generation": {"max_new_tokens": 3},
        "device": "cpu",
        "training": training,
    }
    for name, section in sections.items():
        data[name] = {**data.get(name, {}), **section}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(data))
    return str(file)
