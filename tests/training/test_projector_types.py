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


@pytest.mark.parametrize(
    ("name", "unused"), [("ldp", set()), ("minigpt", set()), ("spp_v1", {"linear_0"})]
)  # convolutions, no grid, a layer that its forward pass does not use
def test_fewer_tokens_are_trained(
    tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path, name: str, unused: set[str]
) -> None:
    files = []
    for steps in (0, 4):
        given = [*QUICK, f"projector.type={name}", f"training.warm_start_steps={steps}", f"training.steps={steps + 1}"]
        train(load_config(tiny_config, given), [captioned], tmp_path / str(steps))
        files.append(load_file(tmp_path / str(steps) / "projector.safetensors"))
    first, trained = files
    assert {key.partition(".")[0] for key in first if torch.equal(first[key], trained[key])} == unused
    model = build_model(tmp_path / "4")
    assert all(torch.equal(value, trained[key].float()) for key, value in model.projector.state_dict().items())
    assert sorted(trained) == sorted(model.projector.state_dict())
    assert model.ask(golden / "pictures" / "wide.png").visual_tokens < model.tower.num_tokens


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
