"""Projectors that return fewer tokens than the tower gives are trained, and the directory opens again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from natives import saved_timm
from PIL import Image
from safetensors.torch import load_file
from test_training import QUICK

from vita_core import build_model, load_config
from vita_core.training.data import read_samples
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.train import train


@pytest.mark.parametrize("name", ["ldp", "minigpt", "spp_v1"])  # convolutions, no grid, weights that are not used
def test_fewer_tokens_are_trained(tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path, name: str) -> None:
    out = tmp_path / "out"
    train(load_config(tiny_config, [*QUICK, f"projector.type={name}"]), [captioned], out)
    model = build_model(out)
    trained, kept = load_file(out / "projector.safetensors"), model.projector.state_dict()
    assert sorted(trained) == sorted(kept)
    for key, value in kept.items():
        assert (value - trained[key].float()).abs().max() == 0
    assert model.ask(golden / "pictures" / "wide.png").tower == "clip"


def test_pictures_of_several_grids_are_trained_together(
    tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path
) -> None:
    saved_timm(tmp_path / "naflex")
    native = [f"tower.weights={tmp_path / 'naflex'}", "projector.type=spp_v1", "images.max_tokens=16"]
    config = load_config(tiny_config, [*QUICK, *native])
    for index, line in enumerate(captioned.read_text().splitlines()):
        file = captioned.parent / json.loads(line)["image"]
        with Image.open(file) as opened:
            opened.convert("RGB").resize([(64, 64), (128, 32), (32, 128)][index % 3]).save(file)
    model, samples = build_model(config), read_samples(captioned)
    cache = FeatureCache(tmp_path / "cache", config, model.tower, samples)
    cache.fill()
    grids = [tuple(cache.grid(0, index).tolist()) for index in range(3)]
    assert grids == [tuple(side // 16 for side in model.prepare(s.image).pixels.shape[-2:]) for s in samples[:3]]
    assert len({*grids}) == 3
    again = FeatureCache(tmp_path / "cache", config, model.tower, samples)
    assert torch.equal(again.grid(0, 1), cache.grid(0, 1))
    train(config, [captioned], tmp_path / "out")
    assert build_model(tmp_path / "out").ask(golden / "pictures" / "wide.png").visual_tokens > 0
