"""Look at the towers of a comparison themselves: how alike their features are, how fast they are, what they see."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vita_core.comparing.planned import Planned
from vita_core.models.pictures import prepare
from vita_core.pixels.fused import Pixels, one_batch
from vita_core.probing.measures import cka_matrix
from vita_core.towers.batches import Placed
from vita_core.towers.colours import pca_colours
from vita_core.towers.devices import pick_device
from vita_core.towers.features import select_feature
from vita_core.towers.tower import BaseVisionTower, build_resolved
from vita_core.training.data import Sample, picture_of
from vita_core.weights.files import write_whole

__all__ = ["MOST", "Opened", "likeness", "open_towers", "time_towers", "write_pictures"]

MOST = 128
"""How many pictures the CKA is computed of, if there are so many."""
BATCH = 16
TIMED = 8
ROUNDS = 5
SIDE = 256
"""The side of a picture on the page, in pixels."""
LAYERS = 12


@dataclass(frozen=True)
class Opened:
    """A tower of the comparison, before any training, without the reductions behind its encoder."""

    name: str
    planned: Planned
    tower: BaseVisionTower

    def pixels(self, pictures: Sequence[Image.Image]) -> list[Pixels]:
        """Return the pixels of each picture, of a picture in tiles those of the last one."""
        images = self.planned.resolved.config.images
        return [prepare(self.tower, images, picture).pixels[-1:] for picture in pictures]

    @torch.inference_mode()
    def tokens(self, pictures: Sequence[Image.Image]) -> list[Placed]:
        """Return the tokens (N, C) of each picture, and their grid (rows, cols) if they have one."""
        native, found = self.tower.shape.native is not None, []
        for start in range(0, len(pictures), BATCH):
            pixels = self.pixels(pictures[start : start + BATCH])
            made = self.tower.placed([one[0] for one in pixels] if native else one_batch(pixels))
            each = made if isinstance(made, list) else [(tokens, made[1]) for tokens in made[0].split(1)]
            found += [(tokens[0].float().cpu(), grid if grid is None else grid[-2:]) for tokens, grid in each]
        return found


def open_towers(planned: Sequence[Planned]) -> list[Opened]:
    """Build the towers of configs, all layers of them."""
    found = []
    for one in planned:
        layers = ["tower.layers=all"] if one.resolved.config.tower.towers is None else []
        resolved = one.with_overrides([*layers, "tower.delay_load=false"])
        tower = build_resolved(resolved.tower, pick_device(resolved.config.device), untrained=True)
        tower.ends_before = 0
        found.append(Opened(one.name, one, tower.eval()))
    return found


def likeness(towers: Sequence[Opened], samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the linear CKA of the mean tokens of pictures between all towers, and between the layers of each one encoder."""
    pictures = [picture_of(sample.pictures[0]) for sample in samples[:MOST]]
    means = [torch.stack([tokens.mean(0) for tokens, _ in one.tokens(pictures)]) for one in towers]
    layers = {one.name: found for one in towers if (found := _layers(one, pictures)) is not None}
    return {
        "towers": [one.name for one in towers],
        "matrix": cka_matrix(means),
        "pictures": len(pictures),
        "layers": layers,
    }


@torch.inference_mode()
def _layers(one: Opened, pictures: Sequence[Image.Image]) -> dict[str, Any] | None:
    """Return the CKA between up to 12 layers of an encoder, or None for several encoders and for native resolution."""
    tower, shape = one.tower, one.tower.shape
    if tower.resolved.parts or shape.native is not None or tower.resolved.geometry.inside:
        return None
    last = len(shape.stages) - 1
    layers = (
        sorted({round(place * last / (LAYERS - 1)) for place in range(LAYERS)})
        if last >= LAYERS
        else [*range(last + 1)]
    )
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for start in range(0, len(pictures), BATCH):
        pixels = one_batch(one.pixels(pictures[start : start + BATCH]))
        assert isinstance(pixels, Tensor)  # it is one encoder
        if tower.settings.s2 is not None:
            pixels = torch.nn.functional.interpolate(pixels, shape.image_size, mode="bicubic")
        states, _ = tower.encode(pixels.to(tower.device, tower.dtype), layers)
        for layer in layers:
            tokens = select_feature(states[layer], "patch", shape.prefix_tokens, shape.suffix_tokens)
            found[layer].append(tokens.float().mean(1).cpu())
    return {"layers": layers, "matrix": cka_matrix([torch.cat(found[layer]) for layer in layers])}


def time_towers(towers: Sequence[Opened], samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return the milliseconds that a picture takes in each tower, its preparation included: median, lowest and highest round.

    The towers take turns, so that a machine that slows down slows all of them.
    """
    pictures = [picture_of(sample.pictures[0]) for sample in samples[:TIMED]]
    times: dict[str, list[float]] = {one.name: [] for one in towers}
    for _ in range(ROUNDS):
        for one in towers:
            start = time.perf_counter()
            for picture in pictures:
                one.tokens([picture])
            times[one.name].append((time.perf_counter() - start) * 1000 / len(pictures))
    return {name: spread(found) for name, found in times.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def write_pictures(towers: Sequence[Opened], samples: Sequence[Sample], folder: Path) -> list[dict[str, Any]]:
    """Write each picture small, and the map of each tower's tokens on it. Return for each picture the names of the files.

    The colours are the first three principal components over all these pictures. Towers whose tokens are on no grid have no
    maps.
    """
    pictures = [picture_of(sample.pictures[0]) for sample in samples]
    rows: list[dict[str, Any]] = []
    for place, picture in enumerate(pictures):
        small = picture.copy()
        small.thumbnail((SIDE, SIDE))
        _save(small, folder / f"{place}.jpg")
        rows.append({"thumbnail": f"{place}.jpg", "maps": {}})
    for number, one in enumerate(towers):
        found = one.tokens(pictures)
        colours = pca_colours([tokens for tokens, _ in found])
        for place, ((_, grid), levels) in enumerate(zip(found, colours, strict=True)):
            if grid is not None:
                name = f"{place}-{number}.png"
                drawn = Image.fromarray(levels.reshape(*grid, 3).numpy())
                _save(drawn.resize((SIDE, SIDE), Image.Resampling.NEAREST), folder / name)
                rows[place]["maps"][one.name] = name
    return rows


def _save(picture: Image.Image, path: Path) -> None:
    write_whole(path, picture.save)
