"""Several towers as one: each combination equals the parts run apart and joined by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vita_core import build_tower
from vita_core.planning.stages import tower_stages
from vita_core.towers.fused import FusedTower
from vita_core.towers.tower import BaseVisionTower

Examples = dict[str, dict[str, Any]]
FAMILIES = ("clip", "siglip", "internvit", "eva_clip", "timm", "torchvision", "transformers", "open_clip")


def fused(*parts: dict[str, Any], **whole: Any) -> FusedTower:
    tower = build_tower({"towers": [*parts], **whole})
    assert isinstance(tower, FusedTower)
    return tower


@pytest.fixture(scope="module")
def pictures(golden: Path) -> list[Image.Image]:
    return [Image.open(golden / "pictures" / name).convert("RGB") for name in ("wide.png", "tall.png")]


@pytest.fixture(scope="module")
def alone(tower_examples: Examples) -> dict[str, BaseVisionTower]:
    return {name: build_tower(tower_examples[name]) for name in FAMILIES}


def pixels_of(tower: BaseVisionTower, pictures: list[Image.Image]) -> Any:
    return tower.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]


def resized(tokens: Tensor, grid: Any, wanted: Any, **options: Any) -> Tensor:
    rows = tokens.unflatten(1, tuple(grid)).permute(0, 3, 1, 2)
    return F.interpolate(rows, tuple(wanted), mode="bilinear", **options).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(FAMILIES, 2)])
def test_channel_is_the_parts_apart_and_concatenated(
    first: str, second: str, tower_examples: Examples, alone: dict[str, BaseVisionTower], pictures: list[Image.Image]
) -> None:
    """Bit for bit where the grids are equal, else up to the one resizing of the second part."""
    tower = fused(tower_examples[first], tower_examples[second])
    with torch.no_grad():
        apart = [alone[name](pixels_of(alone[name], pictures)) for name in (first, second)]
        found = tower(pixels_of(tower, pictures))
    grids = [alone[name].grid for name in (first, second)]
    if grids[0] != grids[1]:
        apart[1] = resized(apart[1], grids[1], grids[0])
    assert torch.equal(found, torch.cat(apart, dim=-1))
    assert (tower.grid, tower.num_tokens, tower.hidden_size) == (grids[0], found.shape[1], found.shape[2])
    assert tower_stages(tower.resolved, 1)[0].shape == (1, *found.shape[1:])
