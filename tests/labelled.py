"""Pictures whose labels can be seen: each has its own colour, and areas that no other picture has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"apple": (200, 30, 30), "leaf": (30, 180, 40), "sea": (20, 40, 200)}


def picture(label: str, number: int, size: tuple[int, int] = (72, 64)) -> Image.Image:
    """The picture of a label with this number, the same in every call."""
    rng = np.random.default_rng([*COLOURS].index(label) * 1000 + number)
    areas = np.array(COLOURS[label]) + rng.integers(-60, 60, (6, 6, 3))
    return Image.fromarray(areas.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def folders(root: Path, count: int = 16, labels: tuple[str, ...] = ("apple", "leaf", "sea")) -> Path:
    """Write `count` pictures of each label into a folder of its own, and return the folder of all."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            picture(label, number).save(root / label / f"{number:02}.png")
    return root
