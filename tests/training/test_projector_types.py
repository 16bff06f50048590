"""Projectors that return fewer tokens than the tower gives are trained, and the directory opens again."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_training import QUICK

from vita_core import build_model, load_config
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
