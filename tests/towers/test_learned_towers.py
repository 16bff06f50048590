"""Reductions that learn behind a tower, with the weights that the config names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_learned_reductions import CASES, prepared
from test_learned_references import BLIP2, close, randomised
from transformers import Blip2Config, Blip2ForConditionalGeneration

from vita_core import VitaError, build_tower, make_plan

CLIP = str(Path(__file__).parent.parent / "fixtures" / "golden" / "clip")


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_of_a_tower(name: str, tmp_path: Path) -> None:
    rules, given = CASES[name]
    tower = build_tower({"weights": CLIP})
    pixels, grid = torch.randn(2, 3, *tower.shape.image_size), tower.grid
    assert grid is not None
    if name == "qwen-same-width":
        given = given | {"heads": 4}  # 3 do not divide the 32 channels of this tower
    spec, _, module = prepared(rules, given, (*grid, tower.hidden_size))
    save_file(module.state_dict(), tmp_path / "reduce.safetensors")
    section = {"weights": CLIP, "reduce": {"type": spec.name, "weights": str(tmp_path / "reduce.safetensors"), **given}}
    reduced = build_tower(section)
    with torch.no_grad():
        found = reduced(pixels)
        close(found, module(tower(pixels), grid))
    plan = make_plan({"tower": section})
    assert (plan.tokens, plan.grid) == (found.shape[1], reduced.grid)
    assert plan.grid is None or math.prod(plan.grid) == plan.tokens


def test_a_whole_checkpoint_of_blip2(tmp_path: Path) -> None:
    original = randomised(Blip2ForConditionalGeneration(Blip2Config(**BLIP2)))
    original.save_pretrained(tmp_path)
    sizes = {"queries": 5, "hidden_size": 16, "depth": 3, "heads": 4, "mlp_width": 24, "width": 20}
    reduce = {"type": "qformer", "weights": str(tmp_path), **sizes}
    section = {
        "weights": str(tmp_path),
        "select_layer": -1,
        "norm": True,
        "select_feature": "cls_patch",
        "reduce": reduce,
    }
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        close(build_tower(section)(pixels), original.get_image_features(pixels).pooler_output)
    for option, message in (
        ({"queries": 6}, "query_tokens is 1 x 5 x 16 instead of 1 x 6 x 16"),
        ({"width": None}, "language_proj"),
    ):
        with pytest.raises(VitaError, match=message):
            make_plan({"tower": {**section, "reduce": {**reduce, **option}}})
