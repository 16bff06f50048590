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

__all__ = ["look", "spread", "time_towers"]

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
    """A tower of the comparison, before any training."""

    planned: Planned
    tower: BaseVisionTower

    def pixels(self, picture: Image.Image) -> Pixels:
        """Return the pixels of a picture, all its tiles."""
        return prepare(self.tower, self.planned.resolved.config.images, picture).pixels

    @torch.inference_mode()
    def encode(self, picture: Image.Image) -> None:
        """Prepare and encode a picture as the model does."""
        pixels = self.pixels(picture)
        self.tower(list(pixels) if self.tower.shape.native is not None else pixels)

    @torch.inference_mode()
    def tokens(self, pictures: Sequence[Image.Image]) -> list[Placed]:
        """Return the tokens (N, C) of each picture, of one in tiles those of the last, and their grid (rows, cols) or None."""
        native, found = self.tower.shape.native is not None, []
        for start in range(0, len(pictures), BATCH):
            pixels = [self.pixels(picture)[-1:] for picture in pictures[start : start + BATCH]]
            made = self.tower.placed([one[0] for one in pixels] if native else one_batch(pixels))
            each = made if isinstance(made, list) else [(tokens, made[1]) for tokens in made[0].split(1)]
            found += [(tokens[0].float().cpu(), grid if grid is None else grid[-2:]) for tokens, grid in each]
        return found


def _opened(planned: Planned, *overrides: str) -> Opened:
    resolved = planned.with_overrides([*overrides, "tower.delay_load=false"])
    tower = build_resolved(resolved.tower, pick_device(resolved.config.device), untrained=True)
    return Opened(planned, tower.eval())


def look(
    planned: Sequence[Planned], samples: Sequence[Sample], shown: Sequence[Sample], folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, str]]:
    """Return the linear CKA of encoders, the files of the `shown` pictures, and why a tower could not be looked at, by its name.

    The CKA is that of the mean tokens of pictures, without the reductions behind the encoders, between all towers and between
    the layers of each one encoder. For each picture, a small copy and a map of each tower's tokens are written to `folder`.
    The towers are opened one after the other.
    """
    pictures = [picture_of(sample.pictures[0]) for sample in samples[:MOST]]
    small = [picture_of(sample.pictures[0]) for sample in shown]
    rows, failed = [_thumbnail(picture, place, folder) for place, picture in enumerate(small)], dict[str, str]()
    means: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    for number, one in enumerate(planned):
        try:
            whole = ["tower.layers=all"] if one.resolved.config.tower.towers is None else []
            opened = _opened(one, *whole)
            opened.tower.ends_before = 0
            mean = torch.stack([tokens.mean(0) for tokens, _ in opened.tokens(pictures)])
            between, maps = _layers(opened, pictures), _maps(opened, small, number, folder)
        except Exception as error:
            # any error of a plugin or the machine: the scores of the comparison are not lost for it
            failed[one.name] = f"{type(error).__name__}: {error}"
            continue
        means[one.name] = mean
        if between is not None:
            layers[one.name] = between
        for place, name in maps.items():
            rows[place]["maps"][one.name] = name
    cka = {"towers": [*means], "matrix": cka_matrix([*means.values()]), "pictures": len(pictures), "layers": layers}
    return cka, rows, failed


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
        pixels = one_batch([one.pixels(picture)[-1:] for picture in pictures[start : start + BATCH]])
        assert isinstance(pixels, Tensor)  # it is one encoder
        if tower.settings.s2 is not None:
            pixels = torch.nn.functional.interpolate(pixels, shape.image_size, mode="bicubic")
        states, _ = tower.encode(pixels.to(tower.device, tower.dtype), layers)
        for layer in layers:
            tokens = select_feature(states[layer], "patch", shape.prefix_tokens, shape.suffix_tokens)
            found[layer].append(tokens.float().mean(1).cpu())
    return {"layers": layers, "matrix": cka_matrix([torch.cat(found[layer]) for layer in layers])}


def time_towers(planned: Sequence[Planned], samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return the milliseconds that a picture takes in each tower, with its preparation: median, lowest and highest round.

    The towers are those of the configs, with their layers and reductions. They take turns, so that a machine that slows down
    slows all of them.
    """
    towers = {one.name: _opened(one) for one in planned}
    pictures = [picture_of(sample.pictures[0]) for sample in samples[:TIMED]]
    times: dict[str, list[float]] = {name: [] for name in towers}
    for _ in range(ROUNDS):
        for name, one in towers.items():
            start = time.perf_counter()
            for picture in pictures:
                one.encode(picture)
            times[name].append((time.perf_counter() - start) * 1000 / len(pictures))
    return {name: spread(found) for name, found in times.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _thumbnail(picture: Image.Image, place: int, folder: Path) -> dict[str, Any]:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    _save(small, folder / f"{place}.jpg")
    return {"thumbnail": f"{place}.jpg", "maps": {}}


def _maps(one: Opened, pictures: Sequence[Image.Image], number: int, folder: Path) -> dict[int, str]:
    """Write the maps of a tower's tokens, and return their names by the place of the picture. Tokens on no grid have none.

    The colours are the first three principal components over all these pictures.
    """
    found, names = one.tokens(pictures), {}
    colours = pca_colours([tokens for tokens, _ in found])
    for place, ((_, grid), levels) in enumerate(zip(found, colours, strict=True)):
        if grid is not None:
            names[place] = f"{place}-{number}.png"
            drawn = Image.fromarray(levels.reshape(*grid, 3).numpy())
            _save(drawn.resize((SIDE, SIDE), Image.Resampling.NEAREST), folder / names[place])
    return names


def _save(picture: Image.Image, path: Path) -> None:
    write_whole(path, picture.save)
