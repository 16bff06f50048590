"""Plans of several encoders as one tower: each part and the sum, and every mistake told before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from natives import saved_timm, saved_transformers
from typer.testing import CliRunner

from vita_core import make_plan
from vita_core.cli import app
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.plan import Plan
from vita_core.planning.resolution import resolve
from vita_core.training.stages import resolve_stages

Examples = dict[str, dict[str, Any]]


def planned(*parts: dict[str, Any], images: dict[str, Any] | None = None, **whole: Any) -> Plan:
    return make_plan({"tower": {"towers": [*parts], **whole}, "images": images or {}})


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tower of native resolution with up to 25 patches of 16 pixels and tokens of width 32."""
    folder = tmp_path_factory.mktemp("naflex")
    saved_timm(folder)
    return {"weights": str(folder)}


@pytest.fixture(scope="module")
def pixtral(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pixtral")
    saved_transformers("pixtral", folder)
    return {"weights": str(folder)}


def test_each_part_and_the_sum(tower_examples: Examples, tiny_llm: Path) -> None:
    part = tower_examples["clip"] | {"s2": {"scales": [56, 112]}, "dtype": "bfloat16"}
    others = tower_examples["siglip"], tower_examples["torchvision"] | {"reduce": {"type": "pool", "grid": 1}}
    plan = make_plan({"tower": {"towers": [part, *others]}, "llm": {"weights": str(tiny_llm)}})
    alone = [make_plan({"tower": one}) for one in (part, *others)]
    whole = plan.stages[1]
    assert (whole.stage, whole.what, whole.shape) == ("tower", "fused", (1, 16, 64 + 32 + 1280))
    for key in ("parameters", "weight_bytes", "flops"):
        assert getattr(whole, key) == sum(getattr(one, key) for one in alone)
        assert getattr(plan, key) == sum(getattr(stage, key) for stage in plan.stages)
    assert [list(one.stages) for one in plan.parts] == [list(one.stages[1:]) for one in alone]
    for found, one in zip(plan.parts, alone, strict=True):
        for key in ("rule", "tower", "owner", "weights", "pixels", "settings", "layers", "grid", "tokens", "crops"):
            assert getattr(found, key) == getattr(one, key)
    assert (plan.crops, plan.pixels, plan.tokens) == (5 + 1 + 1, (112, 112), 16)
    assert plan.stages[2].shape == (1, 16, 24)
    assert make_plan({"tower": part}).parts == ()


def test_it_is_printed_with_the_origins_of_each_part(tower_examples: Examples, tmp_path: Path) -> None:
    file, clip, siglip = tmp_path / "f.yaml", tower_examples["clip"]["weights"], tower_examples["siglip"]["weights"]
    file.write_text(f"tower:\n  towers:\n    - {{weights: {clip}, norm: true}}\n    - {{weights: {siglip}}}\n")
    arguments = ["plan", str(file), "--set", "tower.towers.1.select_layer=1", "--set", "tower.pool=2"]
    printed = CliRunner().invoke(app, arguments).stdout
    assert "tower fused (vita-core" in printed
    assert "chosen by `towers` of 2 parts" in printed
    for line in (
        f"norm true (set in {file})",
        "select_layer 1 (set by --set)",
        "select_layer -2 (tower 'clip')",
        "combine channel (general default)",
        "pool 2 (set by --set)",
        "One picture: 2 encoders, grid 2 x 2.",
    ):
        assert line in printed, printed
    made = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [part["tower"] for part in made["parts"]] == ["clip", "siglip"]
    origins = {setting["key"]: setting["origin"] for setting in made["parts"][1]["settings"]}
    assert origins["select_layer"] == "set by --set"
    refused = CliRunner().invoke(app, [*arguments, "--set", "tower.towers.0.attention=flash_attention_2"]).stdout
    assert "This machine cannot run it: tower.attention: flash_attention_2 needs a CUDA device" in refused


def test_every_mistake_of_a_part_names_it(tower_examples: Examples, tmp_path: Path) -> None:
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    for wrong, message in (
        ({"select_layer": 40}, r"^tower\.towers\.1\.select_layer: 40 is out of range: .* Try: a layer in"),
        (
            {"norm": True, "type": "siglip", "select_feature": "cls"},
            r"^tower\.towers\.1\.select_feature: 'cls' needs a CLS",
        ),
        ({"type": "siglp"}, r"^tower\.towers\.1: unknown tower: 'siglp'. Did you mean 'siglip'"),
        ({"weights": str(tmp_path / "no")}, r"^tower\.towers\.1: "),
        ({"options": {"size": 3}}, r"^tower\.towers\.1\.?.*options"),
        ({"reduce": {"type": "pool", "grid": 9}}, r"^tower\.towers\.1\.reduce\[0\]: "),
        (
            {"trust_remote_code": True},
            r"^tower\.towers\.1\.trust_remote_code: .* Try: `tower\.towers\.1\.trust_remote_code: fa",
        ),
    ):
        with pytest.raises(VitaError, match=message) as error:
            planned(clip, siglip | wrong)
        assert str(error.value).count("Try: ") == 1


@pytest.mark.parametrize("combine", ["sum", "sequence", "interleave"])
def test_widths_that_must_be_equal(combine: str, tower_examples: Examples) -> None:
    wide = tower_examples["clip"] | {"select_layer": [1, 2]}
    message = (
        rf"tower.combine: '{combine}' needs parts of equal width, but they give 32 and 64 channels. Try: `tower.comb"
    )
    with pytest.raises(ConfigError, match=message):
        planned(tower_examples["siglip"], wide, combine=combine)


def test_grids_that_cannot_be_joined(tower_examples: Examples, vivit: Path) -> None:
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    cls, video = clip | {"select_feature": "cls"}, {"weights": str(vivit)}
    pooled = siglip | {"reduce": {"type": "pool", "window": 2}}
    for parts, whole, message in (
        ((siglip, cls), {}, r"'channel' joins tokens at their places, but part 1 of `towers` gives 1 tokens without a grid"),
        ((clip | {"select_feature": "cls_patch"}, siglip), {"combine": "sum"}, r"'sum' joins .* part 0 .* gives 17 tokens"),
        ((cls, cls), {"grid": [1, 1]}, r"part 0 of `towers` gives 1 tokens without a grid"),
        ((clip, pooled), {"combine": "interleave"}, r"'interleave' needs equal grids, but they are 4 x 4 and 2 x 2. Try: `to"),
        ((clip, cls), {"combine": "interleave"}, r"'interleave' needs equal grids, but they are 4 x 4 and without a grid"),
        ((clip, siglip), {"combine": "sequence", "grid": [2, 2]}, r"tower.grid: 'sequence' resizes nothing: \[2, 2\]. Try: le"),
        ((clip, video), {}, r"tower.towers: the parts take pictures and videos of 4 frames. Try: parts that all"),
        ((video, video | {"reduce": {"type": "pool", "grid": 2}}), {}, r"needs equal grids .*: 2 x 4 x 4 and 2 x 2 x 2. Try: a"),
        ((video, video), {"grid": [2, 2]}, r"'channel' of videos needs equal grids"),
        ((clip, siglip), {"reduce": {"type": "pool", "window": 3}}, r"tower.reduce\[0\]: "),
        ((clip, siglip), {"combine": "sequence", "pool": 2}, r"tower.pool: 'pool' needs the grid of the tokens"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message) as error:
            planned(*parts, **whole)
        assert str(error.value).count("Try: ") == 1


def test_tokens_without_a_grid_are_joined_one_by_one(tower_examples: Examples, vivit: Path) -> None:
    clip, video = tower_examples["clip"], {"weights": str(vivit)}
    for kind, tokens in (("cls", 1), ("cls_patch", 17)):
        plan = planned(clip | {"select_feature": kind}, clip | {"select_feature": kind, "select_layer": 1})
        assert (plan.grid, plan.tokens, plan.stages[1].shape[2]) == (None, tokens, 64)
    plan = planned(clip | {"select_feature": "cls"}, tower_examples["siglip"], combine="sequence")
    assert (plan.grid, plan.tokens) == (None, 17)
    assert planned(video, video).grid == (2, 4, 4)
    plan = planned(video, video, combine="sequence")
    assert (plan.grid, plan.tokens, plan.frames) == (None, 64, 4)


def test_native_resolution(naflex: dict[str, Any], pixtral: dict[str, Any], tower_examples: Examples) -> None:
    """The grid of the first part follows each picture, and so does that of the whole."""
    clip = tower_examples["clip"]
    alone, plan = make_plan({"tower": naflex}), planned(naflex, clip)
    assert (plan.budget, plan.grid, plan.tokens) == (alone.budget, alone.grid, alone.tokens)
    config = {"tower": {"towers": [naflex, clip]}}
    for picture in ((200, 40), (50, 150)):
        one, both = make_plan({"tower": naflex}, picture=picture), make_plan(config, picture=picture)
        assert (both.grid, both.tokens, both.pixels) == (one.grid, one.tokens, one.pixels)
        assert both.stages[1].shape[2] == 64
        assert both.parts[0].stages == one.stages[1:]
    fixed = planned(clip, naflex)  # the first part's grid
    assert (fixed.grid, fixed.budget, fixed.pixels) == ((4, 4), None, (56, 56))
    assert planned(naflex, clip, grid=[2, 3]).grid == (2, 3)
    joined = planned(naflex, clip, combine="sequence")
    assert (joined.grid, joined.tokens, joined.budget) == (None, alone.tokens + 16, None)
    shuffled = planned(naflex, clip, pixel_shuffle=0.5)
    assert shuffled.grid == make_plan({"tower": naflex | {"pixel_shuffle": 0.5}}).grid
    with pytest.raises(
        ConfigError, match=r"'sequence' with a part whose number of tokens .* Try: part 1 of `towers` first"
    ):
        planned(clip, naflex, combine="sequence")
    with pytest.raises(
        ConfigError, match=r"'interleave' needs equal grids, but a part keeps the aspect of each picture"
    ):
        planned(naflex, naflex, combine="interleave")
    with pytest.raises(ConfigError, match=r"images.tiles: tower 'fused' keeps the aspect of each picture"):
        planned(naflex, clip, images={"tiles": {"max": 4}})
    assert planned(clip, naflex, images={"tiles": {"max": 4, "thumbnail": False}}).tiles == 4


def test_the_budget_of_native_resolution(pixtral: dict[str, Any], tower_examples: Examples) -> None:
    images = {"max_tokens": 36}
    alone = make_plan({"tower": pixtral, "images": images})
    both = planned(pixtral, tower_examples["clip"], images=images)
    assert (both.tokens, both.budget, both.pixels) == (alone.tokens, alone.budget, alone.pixels)
    with pytest.raises(ConfigError, match=r"images.max_tokens: tower 'fused' joins tokens .* Try: leave it out"):
        planned(pixtral, tower_examples["clip"], combine="sequence", images=images)


def test_a_checkpoint_with_a_tower_of_its_own(golden: Path, tower_examples: Examples) -> None:
    parts = [tower_examples["clip"], tower_examples["siglip"]]
    config = {"tower": {"towers": parts}, "llm": {"weights": str(golden / "vita15")}}
    with pytest.raises(ConfigError, match=r"tower.towers: .*vita15 is a whole model of another project.* Try: "):
        resolve(config)


def test_reductions_that_need_one_encoder_or_all(tower_examples: Examples) -> None:
    """What reads the blocks or CLS of one encoder is for a part; what learns counts where it is."""
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    prune, merging = {"type": "prune", "keep": 4}, {"type": "token_merging", "per_block": 2, "blocks": [1]}
    learned = {"type": "resampler", "queries": 4}
    for steps, message in (
        (
            [prune],
            r"tower.reduce\[0\]: 'prune' needs the attention of the CLS token of one encoder. Try: write it into a part",
        ),
        ([merging], r"tower.reduce\[0\]: 'token_merging' needs the blocks of one encoder. Try: write it into a part"),
    ):
        with pytest.raises(ConfigError, match=message):
            planned(clip, siglip, reduce=steps)
    part = planned(clip, siglip | {"reduce": learned}, combine="sequence")
    assert (part.tokens, part.stages[1].parameters) == (20, sum(s.parameters for one in part.parts for s in one.stages))
    assert part.parts[1].stages[1].parameters > 0
    pruned = planned(clip | {"reduce": prune}, clip | {"reduce": prune, "select_layer": 1})
    assert (pruned.grid, pruned.tokens, pruned.stages[1].shape[2]) == (None, 5, 64)
    merged = planned(clip, siglip, reduce={"type": "token_merging", "per_block": 2})
    assert merged.tokens == 14
    behind = planned(clip, siglip, reduce=learned)
    assert (behind.tokens, behind.stages[2].stage, behind.stages[2].parameters > 0) == (4, "reduce", True)
    assert behind.layers == ()


def test_a_stage_of_training_names_a_layer_of_no_encoder(tower_examples: Examples, tiny_llm: Path) -> None:
    train = {"tower": {"from_layer": 4}, "projector": "full"}
    stages = [{"name": "a", "train": train, "learning_rate": 1e-3, "batch_size": 1, "steps": 1}]
    parts = [tower_examples["clip"], tower_examples["siglip"]]
    config = {"tower": {"towers": parts}, "llm": {"weights": str(tiny_llm)}, "training": {"stages": stages}}
    with pytest.raises(
        ConfigError, match=r"train.tower.from_layer: 4 is after the last layer that runs, 3, .* 1 to 3, or"
    ):
        resolve_stages(resolve(config), ["x"])


def test_tokens_without_a_grid_are_refused_where_one_is_needed(tower_examples: Examples, tiny_llm: Path) -> None:
    parts = [tower_examples["clip"], tower_examples["siglip"]]
    tower, llm = {"towers": parts, "combine": "sequence"}, {"weights": str(tiny_llm)}
    images = {"anyres": {"grids": [[1, 2]], "merge": "spatial"}}
    with pytest.raises(ConfigError, match=r"a reduction \(or `tower.combine`\) leaves no grid of tokens"):
        resolve({"tower": tower, "llm": llm, "images": images})
