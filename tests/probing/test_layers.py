"""Every layer at once equals a tower of that layer alone, and the encoder runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, golden_settings
from labelled import picture
from natives import saved_transformers
from transformers import SwinConfig, SwinModel

from vita_core import build_tower
from vita_core.errors import ConfigError
from vita_core.models.pictures import prepare
from vita_core.planning.resolution import resolve
from vita_core.probing.layers import TowerReader, single_layers
from vita_core.towers.whole import find_blocks

PICTURES = [picture("apple", 0), picture("sea", 1, (50, 90))]
FUSED = {"towers": [{"weights": str(GOLDEN / "clip")}, {"weights": str(GOLDEN / "siglip")}]}


def read(config: dict[str, Any]) -> None:
    """Compare all layers of a tower, read at once, with towers that are built for one layer each."""
    resolved = resolve({"tower": config, "device": "cpu"}, tower_only=True)
    layers, without = single_layers(resolved.tower)
    assert not without
    reader = TowerReader(resolved, layers)
    found = reader.read([reader.prepare(shown) for shown in PICTURES])
    for selection, tokens in zip(layers, found, strict=True):
        (layer,) = selection.geometry.layers
        alone = build_tower({**config, "select_layer": layer}).eval()
        for shown, one in zip(PICTURES, tokens, strict=True):
            pixels = prepare(alone, resolved.config.images, shown).pixels
            with torch.inference_mode():
                placed = alone.placed(pixels if alone.shape.native is None else [*pixels])
            expected, grid = placed if isinstance(placed, tuple) else placed[0]
            assert torch.equal(one.tokens, expected[0])
            assert one.grid == grid


@pytest.mark.parametrize("name", ["clip", "siglip", "eva_clip", "open_clip", "timm", "torchvision", "transformers"])
def test_each_layer_is_that_of_a_tower_of_its_own(name: str, tower_examples: dict[str, dict[str, Any]]) -> None:
    read(tower_examples[name])


def test_scales_and_reductions_too() -> None:
    read({**golden_settings("siglip_s2"), "pool": 2})
    read({**golden_settings("clip"), "norm": True, "feature_scale": 0.5, "reduce": {"type": "pixel_shuffle"}})


def test_native_resolution_too(tmp_path: Path) -> None:
    saved_transformers("pixtral", tmp_path)
    read({"weights": str(tmp_path)})


def test_the_encoder_runs_once() -> None:
    resolved = resolve({"tower": golden_settings("siglip_s2"), "device": "cpu"}, tower_only=True)
    layers, _ = single_layers(resolved.tower)
    reader, calls = TowerReader(resolved, layers), list[int]()
    assert reader.tower.encoder is not None
    find_blocks(reader.tower.encoder)[0].register_forward_pre_hook(lambda *_: calls.append(1))
    reader.read([reader.prepare(shown) for shown in PICTURES])
    assert len(layers) > 2
    assert len(calls) == 2


def test_several_encoders_are_read_as_one() -> None:
    resolved = resolve({"tower": FUSED, "device": "cpu"}, tower_only=True)
    reader = TowerReader(resolved, [resolved.tower])
    ((one, two),) = reader.read([reader.prepare(shown) for shown in PICTURES])
    tower = build_tower(FUSED).eval()
    with torch.inference_mode():
        expected = tower(prepare(tower, resolved.config.images, PICTURES[1]).pixels)
    assert torch.equal(two.tokens, expected[0])
    assert one.grid == two.grid == tower.grid


def test_a_picture_is_not_cut_into_tiles() -> None:
    tiles = {"images": {"tiles": {"max": 4}}, "tower": golden_settings("clip"), "device": "cpu"}
    resolved = resolve(tiles, tower_only=True)
    reader = TowerReader(resolved, [resolved.tower])
    assert len(reader.prepare(picture("leaf", 0, (300, 100)))) == 1


def test_layers_that_cannot_be_read_are_told(tower_examples: dict[str, dict[str, Any]]) -> None:
    """The last maps of a MobileNet for 64 pixels are 2 x 2: too small for a window of 4."""
    config = {**tower_examples["torchvision"], "select_layer": 1, "reduce": {"type": "pool", "window": 4}}
    tower = resolve({"tower": config}, tower_only=True).tower
    layers, without = single_layers(tower)
    assert [one.geometry.layers for one in layers] == [(layer,) for layer in range(len(layers))]
    assert [*without] == [*range(len(layers), tower.shape.layers + 1)]
    assert all("window" in why for why in without.values())


def test_a_norm_of_another_width_is_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    SwinModel(SwinConfig(**sizes)).save_pretrained(tmp_path)
    tower = resolve({"tower": {"weights": str(tmp_path), "norm": True}}, tower_only=True).tower
    layers, without = single_layers(tower)
    assert [one.geometry.layers for one in layers] == [(tower.shape.layers,)]
    assert "the final norm has another width" in without[0]


def test_towers_without_common_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match="several encoders as one have no common layers"):
        single_layers(resolve({"tower": FUSED}, tower_only=True).tower)
    merged = {**golden_settings("clip"), "reduce": {"type": "token_merging", "blocks": [1], "per_block": 2}}
    with pytest.raises(ConfigError, match="a reduction runs in the blocks"):
        single_layers(resolve({"tower": merged}, tower_only=True).tower)
