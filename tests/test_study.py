"""The study of docs/swap-a-tower.md: its configs are those of comparison.json, and its conclusions follow from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

STUDY = Path(__file__).parent.parent / "examples" / "study"
COMPARISON: dict[str, Any] = json.loads((STUDY / "comparison.json").read_text(encoding="utf-8"))
CONFIGS = {one["name"]: one for one in COMPARISON["configs"]}


def pair(a: str, b: str, measure: str) -> dict[str, Any]:
    (found,) = [one for one in COMPARISON["pairs"] if {one["a"], one["b"]} == {a, b} and one["measure"] == measure]
    sign = 1 if found["a"] == a else -1
    return {**found, "difference": sign * found["difference"]}


def test_the_study_has_the_budget_that_it_states() -> None:
    settings = COMPARISON["settings"]
    assert (settings["seeds"], settings["tokens"], settings["steps"]) == ([0, 1, 2], 4, 60)
    assert settings["tune"] == {"learning_rate": [0.001, 0.003]}
    assert not COMPARISON["unequal"]
    assert {one["config"]["projector"]["type"] for one in CONFIGS.values()} == {"mlp2x_gelu"}


def test_the_committed_configs_are_those_that_were_compared() -> None:
    base = yaml.safe_load((STUDY / "base.yaml").read_text(encoding="utf-8"))
    written = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in STUDY.glob("*.yaml")}
    written.pop("base")
    assert written.keys() == CONFIGS.keys()
    for name, config in written.items():
        ran = CONFIGS[name]["config"]
        for section in ("projector", "llm", "generation", "training"):
            assert base[section].items() <= ran[section].items(), (name, section)
        parts = zip(
            [config["tower"], *config["tower"].get("towers", [])],
            [ran["tower"], *ran["tower"].get("towers", [])],
            strict=True,
        )
        for one, other in parts:
            assert all(Path(str(other[key])).name == Path(str(one[key])).name for key in one if key != "towers"), name


def test_the_captions_are_those_of_the_study() -> None:
    data = COMPARISON["data"]
    rows = [json.loads(line) for line in (STUDY / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == data["train"] + data["validation"] + data["test"] == 1200
    assert len({row["image"].split("/")[0] for row in rows}) == 100


@pytest.mark.parametrize("other", ["mobilenet-layer3", "vit", "vit-layer8", "random-vit"])
def test_mobilenet_is_better_than_each_encoder_alone(other: str) -> None:
    found = pair("mobilenet", other, "named")
    assert found["significant"]
    assert found["difference"] > 0.29
    assert pair("mobilenet", other, "loss")["difference"] < 0


@pytest.mark.parametrize("fusion", ["fusion", "fusion-layer8"])
def test_a_fusion_is_not_shown_to_help(fusion: str) -> None:
    found = pair("mobilenet", fusion, "named")
    assert not found["significant"]
    assert 0.025 < found["difference"] < 0.035
    assert pair("mobilenet", "fusion", "loss")["significant"]


def test_layer_8_has_a_lower_loss_and_does_not_name_more() -> None:
    assert pair("vit-layer8", "vit", "loss")["significant"]
    assert pair("vit-layer8", "vit", "loss")["difference"] < 0
    assert not pair("vit-layer8", "vit", "named")["significant"]


def test_the_best_rate_differs_between_the_towers() -> None:
    assert {name for name, one in CONFIGS.items() if one["learning_rate"] == 0.001} == {"vit", "fusion"}


def test_the_control_names_no_more_than_chance() -> None:
    control = CONFIGS["random-vit"]
    assert control["named"]["mean"] < 0.01
    seen = [one for name, one in CONFIGS.items() if name != "random-vit"]
    assert min(one["named"]["low"] for one in seen) > control["named"]["high"]
