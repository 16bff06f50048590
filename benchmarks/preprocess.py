"""Time a picture file to pixel values on one core, decoding included: `exact` and `fast`, and Hugging Face's PIL processors."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from common import alternate, clock_option, ratio, report
from photos import write_photos
from PIL import Image

from vita_core import Shape
from vita_core.pixels.images import bicubic, cut_tiles, open_picture
from vita_core.pixels.processors import fast_resizer, image_processor
from vita_plugins import clip, internvit, siglip

GOAL, LEVELS = 0.5, 2


def configs() -> dict[str, tuple[dict[str, Any], bool]]:
    """Return, for each name, the preprocessor config and whether the picture is first cut into tiles."""

    def square(side: int) -> Shape:
        return Shape.from_stages((side, side), [(1, (1, 1), 0, 0)])  # a processor reads only the size

    return {
        "CLIP 336": (clip.processor({}, square(336)), False),
        "SigLIP 384": (siglip.processor({}, square(384)), False),
        "InternViT 448, 12 tiles": (internvit.processor({}, square(448)), True),
    }


def sides(config: dict[str, Any], tiled: bool) -> dict[str, Callable[[Path], torch.Tensor]]:
    kind, settings = config["image_processor_type"], {k: v for k, v in config.items() if k != "image_processor_type"}
    slow = getattr(transformers, f"{kind}Pil")(**settings)
    exact, fast = image_processor(config), image_processor(config, fast=True)
    tile = config.get("crop_size", config["size"])["height"]

    def values(processor: Any, picture: Image.Image, resize: Any) -> torch.Tensor:
        parts = cut_tiles(picture, tile=tile, resize=resize) if tiled else [picture]
        pixels: torch.Tensor = processor.preprocess(parts, return_tensors="pt")["pixel_values"]
        return pixels

    return {
        "slow": lambda path: values(slow, Image.open(path).convert("RGB"), bicubic),
        "exact": lambda path: values(exact, open_picture(path), bicubic),
        "fast": lambda path: values(fast, open_picture(path), fast_resizer()),
    }


def compare(name: str, side: int, options: argparse.Namespace) -> dict[str, object]:
    config, tiled = configs()[name]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), 6, (side,))
        ways = sides(config, tiled)
        worst = 0.0
        for path in paths:
            slow, exact, fast = (way(path) for way in ways.values())
            assert torch.equal(slow, exact)
            worst = max(worst, float((slow - fast).abs().max()) * 255 * min(config["image_std"]))
        assert worst <= LEVELS + 0.01, worst
        runs = {key: lambda way=way: [way(path) for path in paths] for key, way in ways.items()}
        times = alternate(runs, options.rounds, options.clock)
    return {
        "processor": name,
        "longer side": side,
        "fast / slow": ratio(times, "fast", "slow"),
        "exact / slow": ratio(times, "exact", "slow"),
        "levels of 255": worst,
        "fast, ms": 1000 * min(times["fast"]) / len(paths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Use one size and 5 rounds.")
    parser.add_argument("--rounds", type=int, default=9)
    clock_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lengths = (1000,) if arguments.quick else (500, 1000, 2000, 4000)
    if arguments.quick:
        arguments.rounds = 5
    rows = [compare(name, side, arguments) for name in configs() for side in lengths]
    claim = f"file to pixels on one core, goal: at most {GOAL} of the slow path, at most {LEVELS} levels of 255 off"
    report("preprocess", claim, list(rows[0]), rows, goal=GOAL, torch=torch.__version__, clock=arguments.clock.__name__)


if __name__ == "__main__":
    main()
