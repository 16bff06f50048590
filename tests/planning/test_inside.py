"""What the plan says of reductions that need an encoder's blocks, where they cannot run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from conftest import GOLDEN

from vita_core import NativeSize, VitaError, build_tower, make_plan
from vita_core.config.reductions import ReductionConfig
from vita_core.config.schema import TowerConfig
from vita_core.planning.geometry import tower_geometry

MERGED = {"type": "token_merging", "per_block": 3, "blocks": [1, 2]}
MERGE, PRUNE = {"type": "token_merging", "tokens": 5}, {"type": "prune", "keep": 5}
BAD: dict[str, Any] = {
    "no CLS": (
        "siglip",
        {"reduce": PRUNE},
        r"reduce\[0\]: 'prune' keeps what the CLS token attends to, but this encoder has none",
    ),
    "a CNN": ("torchvision", {"reduce": PRUNE}, r"reduce\[0\]: 'prune' keeps what the CLS token attends to, but"),
    "no scores": (
        "transformers",
        {"reduce": PRUNE},
        r"reduce\[0\]: 'prune' needs the attention of the CLS token, which tower",
    ),
    "not offered": (
        "transformers",
        {"reduce": MERGED},
        r"reduce\[0\]: 'token_merging' cannot run inside the encoder of tower 'transformers'",
    ),
    "S2": (
        "siglip",
        {"reduce": MERGED, "s2": {"scales": [56, 112]}},
        r"reduce\[0\]: 'token_merging' inside the encoder leaves no grid, but `tower\.s2`",
    ),
    "S2 and scores": (
        "clip",
        {"reduce": PRUNE, "s2": {"scales": [56, 112]}},
        r"reduce\[0\]: 'prune' needs the CLS token of the picture, but `tower\.s2` runs the encoder on crops",
    ),
    "compile": (
        "clip",
        {"reduce": MERGED, "compile": True},
        r"takes the encoder's blocks apart, so they cannot be compiled",
    ),
    "attention": (
        "clip",
        {"reduce": MERGED, "attention": "flex_attention"},
        r"weighs merged tokens by a bias, which 'flex_attention' does not take",
    ),
    "a spatial step": (
        "clip",
        {"reduce": [MERGED, {"type": "pool", "window": 2}]},
        r"reduce\[1\]: 'pool' needs the grid of the tokens, but tower\.reduce\[0\] reduces them inside",
    ),
    "a shorthand": (
        "clip",
        {"reduce": MERGED, "pool": 2},
        r"tower\.pool: 'pool' needs the grid of the tokens, but tower\.reduce\[0\]",
    ),
    "the wrong order": (
        "clip",
        {"reduce": [MERGE, MERGED]},
        r"reduce\[1\]: 'token_merging' runs inside the encoder, so before",
    ),
    "pruned too late": (
        "clip",
        {"reduce": [MERGE, PRUNE]},
        r"reduce\[1\]: 'prune' needs the patches as the encoder gives them, but tower\.reduce\[0\] \('token_merging'\)",
    ),
    "no block runs": (
        "clip",
        {"reduce": PRUNE, "select_layer": 0},
        r"'prune' needs the attention of the last block that runs",
    ),
    "a block that does not run": (
        "clip",
        {"reduce": {**MERGE, "blocks": [3]}},
        r"reduce\[0\]\.blocks: block 3 is not run, because the last selected layer is 2\. Try: blocks in 1\.\.2",
    ),
    "a block twice": (
        "clip",
        {"reduce": [MERGED, {**PRUNE, "blocks": [2]}]},
        r"reduce\[1\]\.blocks: block 2 is listed twice, in tower\.reduce\[0\] before",
    ),
    "between layers": (
        "clip",
        {"reduce": MERGED, "select_layer": [1, 2]},
        r"reduce\[0\]\.blocks: block 2 lies between the selected layers \[1, 2\]",
    ),
    "a kept CLS": (
        "clip",
        {"reduce": MERGE, "select_feature": "cls_patch"},
        r"'token_merging' reduces patches, but `tower\.select_",
    ),
    "nothing to prune": (
        "clip",
        {"reduce": {"type": "prune", "keep": 16}},
        r"reduce\[0\]: 16 tokens are to be kept, but there are 16",
    ),
    "behind the last block": (
        "clip",
        {"reduce": [MERGED, PRUNE]},
        r"reduce\[1\]: 'prune' needs the attention of the last block that runs, 2, but tower\.reduce\[0\] reduces",
    ),
    "more than there are": (
        "clip",
        {"reduce": {**MERGE, "tokens": 17}},
        r"reduce\[0\]: 17 tokens are more than there are: 16",
    ),
    "two numbers": ("clip", {"reduce": {**MERGE, "ratio": 0.5}}, r"2 of tokens, ratio, per_block are set"),
    "no number": ("clip", {"reduce": {"type": "prune"}}, r"0 of keep, ratio are set"),
}


@pytest.mark.parametrize(("name", "section", "message"), BAD.values(), ids=list(BAD))
def test_the_plan_tells(tower_examples: dict[str, dict[str, Any]], name: str, section: Any, message: str) -> None:
    with pytest.raises(VitaError, match=message):
        make_plan({"tower": {**tower_examples[name], "select_layer": 2, **section}})


def test_native_resolution_is_not_reduced_inside() -> None:
    shape = build_tower({"weights": str(GOLDEN / "clip"), "delay_load": True}).shape
    native = dataclasses.replace(shape, native=NativeSize(14, 16))
    for step, message in (
        (MERGED, "runs inside the encoder only for pictures of one size"),
        (PRUNE, "'prune' needs pictures of one size, but this encoder keeps their aspect"),
    ):
        with pytest.raises(VitaError, match=message):
            tower_geometry(TowerConfig(weights="x", reduce=ReductionConfig.model_validate(step)), native)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (MERGED, "'token_merging' needs the blocks of one"),
        (PRUNE, "'prune' needs the attention of the CLS token of one"),
    ],
)
def test_several_encoders_reduce_in_their_parts(step: dict[str, Any], message: str) -> None:
    part = {"weights": str(GOLDEN / "clip")}
    with pytest.raises(VitaError, match=rf"^tower\.reduce\[0\]: {message} encoder\. "):
        make_plan({"tower": {"towers": [part, part], "reduce": step}})
    plan = make_plan({"tower": {"towers": [{**part, "reduce": step}] * 2, "combine": "sequence"}})
    assert plan.tokens == 2 * make_plan({"tower": {**part, "reduce": step}}).tokens


def test_the_plan_prints_the_steps_as_they_are_stated() -> None:
    plan = make_plan({"tower": {"weights": str(GOLDEN / "clip"), "reduce": MERGED}})
    assert [setting.value for setting in plan.settings if setting.key == "reduce"] == [MERGED]
    assert plan.stages[1].what == "clip with token_merging"
