"""The features equal the hidden states of transformers, and sizes are known before weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vita_core import build_tower, list_towers, make_plan
from vita_core.testing import CHECKS, Check, open_subject

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "layerscale_value": 0.5,
}
LLM = {"weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # planned, not downloaded


def plain(**changes: object) -> torch.nn.Module:
    return Dinov2Model(Dinov2Config(**SIZES, **changes))


def registers(**changes: object) -> torch.nn.Module:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=2, **changes))


@pytest.fixture(params=["plain", "registers", "gated"])
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """A random model of transformers, and the directory that it is saved in."""
    torch.manual_seed(0)
    made = {"plain": plain, "registers": registers, "gated": lambda: plain(use_swiglu_ffn=True)}[request.param]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    made.save_pretrained(tmp_path)
    return made.eval(), tmp_path


def test_it_is_registered() -> None:
    assert "dinov2" in {spec.name for spec in list_towers()}


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_features_are_the_hidden_states(original: tuple[torch.nn.Module, Path], layer: int) -> None:
    model, weights = original
    tower = build_tower({"weights": str(weights), "select_layer": layer})
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[layer][:, prefix:]
    torch.testing.assert_close(tower(pixels), expected, atol=1e-5, rtol=1e-5)


def test_the_norm_and_another_size(original: tuple[torch.nn.Module, Path]) -> None:
    model, weights = original
    config = {"weights": str(weights), "norm": True, "select_feature": "cls_patch", "options": {"image_size": 84}}
    tower = build_tower(config)
    registers = getattr(model.config, "num_register_tokens", 0)
    pixels = torch.randn(1, 3, 84, 84)
    with torch.no_grad():
        tokens = model(pixels).last_hidden_state
    expected = torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1)
    torch.testing.assert_close(tower(pixels), expected, atol=1e-5, rtol=1e-5)
    assert tower.num_tokens == 37
    assert tower.image_processor.crop_size.height == 84


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_keeps_the_contract(check: Check) -> None:
    with open_subject("dinov2") as subject:
        result = check.run(subject)
    assert result.outcome != "failed", result.message


@pytest.mark.parametrize("hub_id", ["facebook/dinov2-base", "facebook/dinov2-with-registers-base"])
def test_published_checkpoints_are_planned_offline(hub_id: str) -> None:
    tower = {"weights": hub_id, "options": {"image_size": 224}}
    assert make_plan({"tower": tower, "llm": LLM}).tokens == 256
