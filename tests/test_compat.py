"""Old code's names: `build_vision_tower(config)` for any config, and VITA-1.0's checkpoint beside VITA-1.5's."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vita_core.compat import build_vision_tower
from vita_core.errors import CheckpointError, VitaError

KEYS = ["is_loaded", "image_processor", "vision_tower", "hidden_size", "dtype", "device", "num_patches", "config"]


@pytest.mark.parametrize("key", ["mm_vision_tower", "vision_tower"])
@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
@pytest.mark.parametrize("family", ["clip", "siglip", "internvit", "internvit_6b"])
def test_features_are_the_originals(golden: Path, family: str, kind: Any, key: str) -> None:
    tower = build_vision_tower(kind(**{key: str(golden / family), "mm_vision_select_feature": "patch"}))
    saved = load_file(golden / family / "expected.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(tower(saved["pixel_values"]), saved["features"], atol=1e-5, rtol=0)
    assert not [name for name in KEYS if not hasattr(tower, name)]


def test_any_object_is_a_config(golden: Path) -> None:
    """transformers' config, attributes of a class, a tuple with names."""
    from collections import namedtuple

    from transformers import PretrainedConfig

    class Attributes:
        mm_vision_tower = str(golden / "clip")

    named = namedtuple("named", "vision_tower mm_vision_select_layer")
    for config in (
        PretrainedConfig(mm_vision_tower=str(golden / "clip")),
        Attributes(),
        named(str(golden / "clip"), -2),
    ):
        assert build_vision_tower(config, delay_load=True).resolved.geometry.layers == (3,)


def test_s2_scales_as_text_and_by_default(golden: Path) -> None:
    saved = load_file(golden / "siglip_s2" / "expected.safetensors")
    base = {"mm_vision_tower": str(golden / "siglip_s2"), "use_s2": True}
    for scales in ({"s2_scales": "56,112,168"}, {"s2_scales": [168, 56, 112]}, {}):
        tower = build_vision_tower({**base, **scales})
        with torch.no_grad():
            torch.testing.assert_close(tower(saved["pixel_values"]), saved["features"], atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="s2_scales: not a list of numbers: 'big'"):
        build_vision_tower({**base, "s2_scales": "big"})


def test_freezing_and_delay(golden: Path) -> None:
    config = {"mm_vision_tower": str(golden / "clip"), "unfreeze_mm_vision_tower": True}
    waiting = build_vision_tower(config, delay_load=True)
    assert not waiting.is_loaded
    waiting.load_model()
    assert all(parameter.requires_grad for parameter in waiting.parameters())
    frozen = build_vision_tower(config, unfreeze_mm_vision_tower=False)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert len(waiting.vision_tower.encoder.layers) == 4


def test_select_layer(golden: Path) -> None:
    tower = build_vision_tower({"mm_vision_tower": str(golden / "clip"), "mm_vision_select_layer": -3})
    assert tower.resolved.geometry.layers == (2,)


def test_no_part_of_a_path_decides(golden: Path, tmp_path: Path) -> None:
    """The old builder loads EVA here, because "eva" stands in "eval"."""
    place = shutil.copytree(golden / "clip", tmp_path / "eval" / "sig" / "my-encoder")
    assert build_vision_tower({"mm_vision_tower": str(place)}).resolved.spec.name == "clip"
    (place / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(VitaError, match=r"set tower\.type"):
        build_vision_tower({"mm_vision_tower": str(place)})


def test_no_tower_named() -> None:
    with pytest.raises(CheckpointError, match="neither mm_vision_tower nor vision_tower"):
        build_vision_tower({"hidden_size": 3})
