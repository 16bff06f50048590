"""Write real photos in common sizes: the example picture and those of scikit-image, as JPEG files of quality 92."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import skimage
from PIL import Image

EXAMPLE = Path(__file__).parent.parent / "examples" / "pictures" / "cat.jpg"
DATA = Path(skimage.__file__).parent / "data"
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")
SIDES = (500, 1000, 2000)


def write_photos(folder: Path, count: int, sides: tuple[int, ...] = SIDES) -> list[Path]:
    """Write `count` JPEG files to `folder` and return their paths. Every photo comes in every size (longer side) of `sides`."""
    sources = [Image.open(path).convert("RGB") for path in (EXAMPLE, *(DATA / name for name in NAMES))]
    kinds = [(source, side) for side in sides for source in sources]
    written: dict[int, bytes] = {}
    paths = []
    for number, (kind, (source, side)) in enumerate(islice(cycle(enumerate(kinds)), count)):
        path = folder / f"{number:04}.jpg"
        if kind not in written:
            scale = side / max(source.size)
            size = (round(source.width * scale), round(source.height * scale))
            source.resize(size, Image.Resampling.LANCZOS).save(path, quality=92)
            written[kind] = path.read_bytes()
        else:
            path.write_bytes(written[kind])
        paths.append(path)
    return paths
