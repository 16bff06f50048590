"""Which configs can be compared, what they are given, and what a sweep compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import FLAT, STAGES, write_config

from vita_core.comparing.planned import Asked, besides_tower, named, plan_configs
from vita_core.comparing.pooling import fitting
from vita_core.comparing.running import rate_overrides
from vita_core.comparing.sweeping import swept
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.resolution import resolve


@pytest.fixture
def clip(tmp_path: Path, tiny_llm: Path) -> str:
    return write_config(tmp_path / "clip.yaml", tiny_llm)


def test_tokens_are_pooled_down_to_the_grid_that_fits_best(clip: str, tmp_path: Path, tiny_llm: Path) -> None:
    siglip = write_config(tmp_path / "siglip.yaml", tiny_llm, tower="siglip")
    one, two = plan_configs(named([clip, siglip]), tokens=8, steps=7)
    for planned in (one, two):
        assert (planned.before, planned.tokens) == (16, 8)
        assert planned.resolved.tower.geometry.grid in ((2, 4), (4, 2))
        assert planned.resolved.config.training.steps == 7
        again = planned.with_overrides(["training.seed=3"]).config
        assert (again.tower, again.training.seed) == (planned.resolved.config.tower, 3)
    assert [step.spec.name for step in one.resolved.tower.geometry.reductions] == ["pool"]


def test_a_config_keeps_its_own_reductions_before_the_pooling(clip: str, tmp_path: Path, tiny_llm: Path) -> None:
    steps = [{"type": "interpolate", "grid": 6}]
    other = write_config(tmp_path / "other.yaml", tiny_llm, tower="siglip", training=FLAT, generation={})
    overridden = Asked("other", other, (f"tower.reduce={json.dumps(steps)}",))
    _, planned = plan_configs([*named([clip]), overridden], tokens=9)
    assert [step.spec.name for step in planned.resolved.tower.geometry.reductions] == ["interpolate", "pool"]
    assert (planned.before, planned.tokens) == (36, 9)


@pytest.mark.parametrize(
    ("overrides", "tokens", "message"),
    [
        (["tower.pool=2"], None, r"b: tower: 16 tokens a picture, but another config has 4\. Try: `--tokens 4`"),
        (["tower.pool=2"], 9, r"b: tower: 4 tokens a picture, fewer than 9, and tokens are only pooled down\. Try: `--tokens 4`"),
        ([], 7, r"cannot be pooled to 7: no grid of 7 tokens fits into 4 x 4\. Try: `--tokens 6`, or"),
        (["tower.select_feature=cls_patch"], 4, r"17 tokens a picture cannot be .* they are on no grid\. Try: configs whose"),
        (["projector={type: ldpv2, options: {grid: 2}}"], 1, "4 tokens a picture cannot be pooled to 1: projector 'ldpv2'"),
        (["images.tiles={max: 4}"], 4, r"images: a picture has up to 5 tiles, so its tokens differ"),
        (["training.steps=3"], None, r"training\.steps: 3, but 2 in a\. Try: `--set training\.steps=VALUE` for all of them"),
        (["prompt.question=what"], None, r'prompt\.question: "what", but "'),
        (["generation.max_new_tokens=4"], None, r"generation\.max_new_tokens: 4, but 3 in a"),
        (["llm.dtype=bfloat16"], None, r'llm\.dtype: "bfloat16", but "float32" in a'),
        ([f"training.stages={json.dumps(STAGES)}"], None, r"training\.stages: b has stages, a has none"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_with_the_reason(
    clip: str, overrides: list[str], tokens: int | None, message: str
) -> None:
    first = ("tower.pool=2",) if "16 tokens" in message else ()
    own = () if first else tuple(overrides)
    asked = [Asked("a", clip, first), Asked("b", clip, own)]
    with pytest.raises(ConfigError, match=message) as refused:
        plan_configs(asked, tokens=tokens)
    assert all("`--unequal`" in line for line in str(refused.value).splitlines())
    _, other = plan_configs(asked, tokens=tokens, unequal=True)
    assert all(f"b: {reason}. Try: " in str(refused.value) for reason in other.unequal)
    assert other.unequal


@pytest.mark.parametrize(
    ("grid", "tokens", "found"),
    [
        ((4, 4), 6, (2, 3)),
        ((4, 4), 7, None),
        ((3, 7), 7, (1, 7)),
        ((16, 16), 144, (12, 12)),
        ((2, 2), 4, (2, 2)),
        ((2, 2), 8, None),
    ],
)
def test_the_grid_of_so_many_tokens_fits_and_is_nearest_in_shape(
    grid: tuple[int, int], tokens: int, found: tuple[int, int] | None
) -> None:
    assert fitting(grid, tokens) == found


def test_the_advised_tokens_are_those_that_all_configs_can_have(clip: str) -> None:
    """The fewest tokens of a config may have no grid in that of another one: 8 = 2 x 4, but not in 3 x 3."""
    wide, square = (
        Asked(name, clip, (f"tower.reduce={json.dumps([{'type': 'pool', 'grid': grid}])}",))
        for name, grid in (("wide", [2, 4]), ("square", [3, 3]))
    )
    for tokens, told in ((None, "9 tokens a picture, but another config has 8"), (8, "cannot be pooled to 8")):
        with pytest.raises(ConfigError, match=rf"square: tower: .*{told}.* Try: `--tokens 6`"):
            plan_configs([wide, square], tokens=tokens)
    with pytest.raises(ConfigError, match=r"wide: tower: .* fewer than 9, .* Try: `--tokens 6`"):
        plan_configs([wide, square], tokens=9)
    assert [one.tokens for one in plan_configs([wide, square], tokens=6)] == [6, 6]


def test_stages_are_compared_key_by_key(clip: str) -> None:
    more = [{**STAGES[0], "batch_size": 8}]
    two = [*STAGES, {**STAGES[0], "name": "again"}]
    asked = [
        Asked(name, clip, (f"training.stages={json.dumps(stages)}",)) for name, stages in (("a", STAGES), ("b", more))
    ]
    with pytest.raises(ConfigError, match=r"training\.stages\.0\.batch_size: 8, but 4 in a"):
        plan_configs(asked)
    with pytest.raises(ConfigError, match=r"training\.stages: 2 stages, 1 in a"):
        plan_configs([asked[0], Asked("b", clip, (f"training.stages={json.dumps(two)}",))])
    epochs = [{key: value for key, value in STAGES[0].items() if key != "steps"} | {"epochs": 2}]
    (planned,) = plan_configs([Asked("a", clip, (f"training.stages={json.dumps(epochs)}",))], steps=5)
    stages: Any = planned.resolved.config.training.stages
    assert (stages[0].steps, stages[0].epochs) == (5, None)
    assert rate_overrides(planned.resolved, 0.5) == ["training.stages.0.learning_rate=0.5"]
    several = resolve(clip, [f"training.stages={json.dumps(two)}"])
    with pytest.raises(ConfigError, match="learning_rate is that of one stage, but the config has 2"):
        rate_overrides(several, 0.5)


def test_an_error_of_a_config_names_it(clip: str) -> None:
    with pytest.raises(VitaError, match=r"^b: tower\.select_layer: 40 is out of range"):
        plan_configs([Asked("a", clip), Asked("b", clip, ("tower.select_layer=40",))])
    with pytest.raises(ConfigError, match=r"^b: .*the section 'llm' is missing: vita compare needs a language model"):
        plan_configs([Asked("a", clip), Asked("b", clip, ("llm=null",))])


def test_configs_are_named_after_their_files(tmp_path: Path) -> None:
    assert [one.name for one in named(["a.yaml", "trained/"])] == ["a", "trained"]
    assert [one.name for one in named(["x/a.yaml", "y/a.yaml", "my b.yaml"])] == ["x-a", "y-a", "my-b"]
    with pytest.raises(ConfigError, match=r"two configs have the name 'x-a': x/a\.yaml, x/a\.yml"):
        named(["x/a.yaml", "x/a.yml"])
    with pytest.raises(ConfigError, match=r"^\./a\.yaml: this config is given twice\. Try: leave one of them out"):
        named(["a.yaml", "./a.yaml"])


def test_a_sweep_is_a_grid_with_readable_names() -> None:
    found = swept("base.yaml", ["tower.select_layer=-1", "tower.select_layer=[-1, -2]", "tower.pool=2"], ["device=cpu"])
    assert [(one.name, one.overrides) for one in found] == [
        ("select_layer=-1+pool=2", ("device=cpu", "tower.select_layer=-1", "tower.pool=2")),
        ("select_layer=-1,-2+pool=2", ("device=cpu", "tower.select_layer=[-1, -2]", "tower.pool=2")),
    ]
    paths = swept("base.yaml", ["tower.weights=./a/clip", "tower.weights=google/siglip", "llm.weights=x"])
    assert [one.name for one in paths] == ["tower.weights=clip+llm.weights=x", "tower.weights=siglip+llm.weights=x"]
    same = swept("base.yaml", ["tower.weights=./a/clip", "tower.weights=./b/clip"])
    assert [one.name for one in same] == ["weights=clip.1", "weights=clip.2"]
    assert [one.name for one in swept("c", ["images.tiles={max: 4}", "images.tiles=null"])] == [
        "tiles=max-4",
        "tiles=null",
    ]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["tower.pool"], "--over tower.pool: not of the form KEY=VALUE"),
        (["tower.pool=2", "tower.pool=2"], "--over tower.pool=2: given twice"),
        ([], "--over: no value is given"),
        (["tower.pool=[2"], "--over tower.pool"),
    ],
)
def test_a_sweep_of_nothing_is_refused(over: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        swept("base.yaml", over)


def test_a_directory_may_be_written_as_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trained").mkdir()
    monkeypatch.chdir(tmp_path / "trained")
    assert [one.name for one in named([".", "../b.yaml", ".."])] == ["trained", "b", tmp_path.name]


OWN = {
    "training.seed=1": r"training\.seed: the comparison sets it",
    "training.held_out=0.1": r"training\.held_out: the comparison sets it",
    "data={a: {path: x}}": "data: the comparison sets it",
    "training.best=true": r"training\.best: a comparison trains on its whole training split.* `--set training\.best=false`",
}


@pytest.mark.parametrize(("override", "message"), OWN.items(), ids=list(OWN))
def test_what_a_comparison_sets_itself_is_refused(clip: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_configs(named([clip, clip.replace(".yaml", "-2.yaml")], [override]))
    with pytest.raises(ConfigError, match=message):
        plan_configs(swept(clip, [override, "tower.pool=2"]))


def test_another_way_to_train_is_unequal_but_where_it_is_swept(clip: str) -> None:
    with pytest.raises(ConfigError, match=r"b: training\.weight_decay: 0\.5, but 0\.01 in a"):
        plan_configs([Asked("a", clip), Asked("b", clip, ("training.weight_decay=0.5",))])
    found = plan_configs(swept(clip, ["training.weight_decay=0.5", "training.weight_decay=0.1"]))
    assert besides_tower(found) == []
    with pytest.raises(ConfigError, match=r"training\.steps: 3, but 2 in steps=2"):
        plan_configs(swept(clip, ["training.steps=2", "training.steps=3"]))
    ways = [[{**STAGES[0], **way}] for way in ({}, {"train": {"projector": "full", "tower": "full"}})]
    asked = [Asked(name, clip, (f"training.stages={json.dumps(way)}",)) for name, way in zip("ab", ways, strict=True)]
    with pytest.raises(ConfigError, match=r"b: training\.stages\.0\.train: .* in a"):
        plan_configs(asked)


def test_differences_besides_the_tower_are_told(clip: str) -> None:
    other = Asked("b", clip, ("projector.type=linear", "tower.select_layer=-1", "training.learning_rate=0.5"))
    assert besides_tower(plan_configs([Asked("a", clip), other])) == ["projector.type", "training.learning_rate"]
