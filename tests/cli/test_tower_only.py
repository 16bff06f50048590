"""A tower without a language model is a full use: encode, plan and check take it; run, train and eval say what they miss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import golden_settings, vita
from safetensors.torch import load_file
from torch.testing import assert_close

from vita_core import VitaError, build_tower, make_plan
from vita_core.cli.common import place_of
from vita_core.planning.resolution import resolve

pytestmark = pytest.mark.slow


@pytest.fixture
def tower_config(golden: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tower.yaml"
    file.write_text(f"tower: {{weights: {golden / 'internvit'}}}\n")
    return file


def test_encode_takes_a_tower_only_config_and_a_bare_tower(tower_config: Path, golden: Path, tmp_path: Path) -> None:
    picture = golden / "pictures" / "square.png"
    done = vita("encode", tower_config, picture, "--out", tmp_path / "a.safetensors")
    assert done.returncode == 0, done.stderr
    bare = ["--tower", "internvit", "--weights", golden / "internvit", "--device", "cpu"]
    done = vita("encode", *bare, picture, "--out", tmp_path / "b.safetensors")
    assert done.returncode == 0, done.stderr
    (configured,), (bare_features,) = (load_file(tmp_path / f"{name}.safetensors").values() for name in "ab")
    assert configured.shape == (1, 4, 128)
    assert_close(bare_features, configured, atol=0, rtol=0)


def test_encode_takes_a_checkpoint_of_another_project(golden: Path, tmp_path: Path) -> None:
    """With the checkpoint's own tower weights, which differ from those of the base tower beside it."""
    picture = golden / "pictures" / "square.png"
    done = vita("encode", golden / "vita15", picture, "--out", tmp_path / "out.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights"] == str(golden / "vita15")


def test_check_takes_a_tower_only_config(tower_config: Path) -> None:
    done = vita("check", tower_config, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["outcome"] for row in json.loads(done.stdout)["checks"]} <= {"ok", "skipped"}


def test_check_takes_a_bare_tower(golden: Path) -> None:
    done = vita("check", "--tower", "siglip", "--weights", golden / "siglip", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["tower"], report["weights"]) == ("siglip", str(golden / "siglip"))
    assert {row["outcome"] for row in report["checks"]} <= {"ok", "skipped"}
    assert "neither CONFIG nor --weights is given" in vita("check").stderr


def test_plan_of_a_bare_tower_says_what_this_machine_refuses(golden: Path) -> None:
    done = vita("plan", "--weights", golden / "siglip", "--device", "cuda:77", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [stage["stage"] for stage in plan["stages"]] == ["picture", "tower"]
    assert (plan["tokens"], plan["cache_bytes"], plan["device"]) == (16, 0, "cuda:77")
    assert "'cuda:77' cannot be used here" in plan["refused_here"]
    told = vita("plan", "--weights", golden / "siglip", "--set", "tower.attention=flash_attention_2")
    assert "This machine cannot run it: tower.attention" in told.stdout
    assert "cannot run" not in vita("plan", "--weights", golden / "siglip", "--device", "cpu").stdout


@pytest.mark.parametrize(
    "arguments", [["run", "--image", "x.png"], ["train", "--data", "x", "--out", "y"], ["eval", "--data", "x"]]
)
def test_commands_that_generate_say_which_section_they_miss(arguments: list[str], tower_config: Path) -> None:
    command, *options = arguments
    done = vita(command, tower_config, *options)
    assert done.returncode == 2
    assert f"{tower_config}: the section 'llm' is missing: vita {command} needs a language model. Try: " in done.stderr


def test_a_tower_alone_plans_as_the_tower_of_a_model(tiny_config: Path, golden: Path) -> None:
    alone, whole = make_plan({"tower": golden_settings("clip")}), make_plan(tiny_config)
    assert alone.stages == whole.stages[:2]
    assert alone.tokens == whole.tokens == build_tower(golden_settings("clip")).num_tokens


def test_a_model_of_a_tower_alone_is_refused(golden: Path) -> None:
    with pytest.raises(VitaError, match="section 'llm' is missing"):
        resolve({"tower": golden_settings("clip")}).language("the model")


@pytest.mark.parametrize(
    ("config", "tower", "weights", "message"),
    [
        ("a.yaml", None, "./dir", "CONFIG and --tower or --weights are both given"),
        (None, "siglip", None, "--tower siglip: it has no weights"),
        (None, None, None, "neither CONFIG nor --weights is given"),
    ],
)
def test_a_bare_tower_is_one_thing(config: str | None, tower: str | None, weights: str | None, message: str) -> None:
    with pytest.raises(VitaError, match=message):
        place_of(config, tower, weights)
