"""What `vita train` refuses before it opens a weight: options and configs that do not go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import GOLDEN, golden_settings
from test_running import written
from torch import nn

from vita_core import VitaError, load_config
from vita_core.cli import app
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training.parts import _train_blocks
from vita_core.training.record import Run
from vita_core.training.running import _check_words, run_stages
from vita_core.training.sets import stamp
from vita_core.training.stages import resolve_stages
from vita_core.training.train import train

__all__ = ["written"]

OPTIONS: dict[str, tuple[bool, list[str], str]] = {
    "no data": (False, [], "--data: no data set is given"),
    "a stage without stages": (False, ["--stage", "align"], "--stage: this config has no `training.stages`"),
    "no such stage": (
        True,
        ["--stage", "algin"],
        "--stage: no stage of this name: 'algin'. Try: one of align, finetune",
    ),
    "no such data": (
        True,
        ["--data", "caption=x", "--data", "captions=x"],
        "--data: no data set of this name: 'caption'. Did you mean 'captions'",
    ),
    "a licence of all": (
        True,
        ["--licence", "MIT"],
        "--licence: with `training.stages`, a data set states its own: 'MIT'",
    ),
}


@pytest.mark.parametrize(("staged", "options", "message"), OPTIONS.values(), ids=list(OPTIONS))
def test_options_that_do_not_fit_the_config(
    staged: bool, options: list[str], message: str, written: Path, tiny_config: Path, tmp_path: Path
) -> None:
    line = ["train", str(written if staged else tiny_config), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(VitaError) as told:
        typer.main.get_command(app).main(line, standalone_mode=False)
    assert str(told.value).startswith(message)
    assert not (tmp_path / "out").exists()


def test_several_processes_need_stages(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vita_core.cli.train import _refuse_stages

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        VitaError, match=r"training\.stages: this config has none, and without stages one process trains"
    ):
        _refuse_stages({})


def test_another_number_of_processes_does_not_go_on(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve(written)
    Run(tmp_path / "out", resolved.config, "")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(VitaError, match=r"another number of processes: 1, now 2\. Try: --nproc-per-node 1"):
        Run(tmp_path / "out", resolved.config, "").finished([], ["align"])


def test_each_way_to_train_refuses_the_configs_of_the_other(written: Path, captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(VitaError, match=r"training\.stages: train\(\) trains without stages"):
        train(resolve(written), [captioned], tmp_path / "out")


@pytest.mark.usefixtures("queries_registered")
def test_a_reduction_without_weights_is_trained_first(tiny_llm: Path) -> None:
    stage: dict[str, Any] = {"name": "align", "train": {"projector": "full"}, "learning_rate": 1e-3, "steps": 1}
    tower = golden_settings("clip") | {"reduce": {"type": "queries"}}
    config = {"tower": tower, "llm": {"weights": str(tiny_llm)}, "training": {"stages": [stage]}}
    with pytest.raises(VitaError, match=r"train\.reduce: tower\.reduce\[0\] has no weights yet"):
        resolve_stages(resolve(config), ["captions"])
    stage["train"] = {"reduce": "full"}
    with pytest.raises(VitaError, match=r"train\.projector: the projector has no weights yet"):
        resolve_stages(resolve(config), ["captions"])


def test_stages_do_not_begin_with_the_words_of_captions(
    tiny_config: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    tower = tower_examples["torchvision"]
    given = [
        f"tower={{type: torchvision, weights: {tower['weights']}, pool: 1, image_size: 64}}",
        "tower.options={architecture: mobilenet_v2, class_scores: true}",
        "projector={type: visual_vocabulary, options: {words: 4}}",
    ]
    with pytest.raises(VitaError, match=r"projector\.type: 'visual_vocabulary' begins with the words of captions"):
        _check_words(build(resolve(load_config(tiny_config, given))))


def test_a_decoder_without_blocks_has_no_layer_to_begin_at() -> None:
    with pytest.raises(VitaError, match=r"llm\.from_layer: Linear has no list of blocks"):
        _train_blocks(nn.Linear(1, 1), 1, "llm.from_layer")


def staged(written: Path, stages: list[dict[str, Any]], **sections: Any) -> Any:
    config = yaml.safe_load(written.read_text())
    return resolve({**config, **sections, "training": {"stages": stages}})


SHARED = {"data": "captions", "learning_rate": 1e-2, "steps": 3, "batch_size": 2}


def test_a_later_stage_is_checked_before_the_first_trains(written: Path, tmp_path: Path) -> None:
    align = {**SHARED, "name": "align", "train": {"projector": "full"}}
    last = {**SHARED, "name": "last", "train": {"llm": {"lora": {"targets": ["nothing"]}}}}
    with pytest.raises(
        VitaError, match=r"stages\[1\]\.train\.llm\.lora: the llm has no linear layer of the names nothing"
    ):
        run_stages(staged(written, [align, last]), tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_stage_that_has_nothing_to_train(written: Path, tiny_llm: Path, tmp_path: Path) -> None:
    width = json.loads((tiny_llm / "config.json").read_text())["hidden_size"]
    reduce = {"type": "resampler", "queries": 4, "width": width, "heads": 2}
    stages = [
        {**SHARED, "name": "first", "train": {"reduce": "full"}},
        {**SHARED, "name": "second", "train": {"projector": "full"}},
    ]
    tower = {"weights": str(GOLDEN / "clip"), "reduce": reduce}
    resolved = staged(written, stages, tower=tower, projector={"type": "identity"})
    with pytest.raises(VitaError, match=r"stages\[1\]\.train: nothing that a loss depends on would be trained"):
        run_stages(resolved, tmp_path / "out")


@pytest.mark.parametrize("staged_form", [True, False])
def test_a_training_that_diverges_is_an_error(
    staged_form: bool, written: Path, tiny_config: Path, captioned: Path, tmp_path: Path
) -> None:
    """transformers would log a loss of 0.0."""
    settings = {"learning_rate": 1e37, "steps": 4, "batch_size": 2}
    flat = {**settings, "warm_start_steps": 0, "warmup_steps": 0, "variants": 0}
    stage = {**SHARED, **settings, "name": "a", "train": {"projector": "full"}}
    run = {
        True: lambda: run_stages(staged(written, [stage]), tmp_path / "a"),
        False: lambda: train(
            resolve(tiny_config, [f"training.{key}={value}" for key, value in flat.items()]),
            [captioned],
            tmp_path / "a",
        ),
    }[staged_form]
    with pytest.raises(
        VitaError, match=r"the loss of step \d+ is not a number: (nan|inf)\. Try: a lower `learning_rate`"
    ):
        run()
    logged = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["loss"] is None
    assert not (tmp_path / "a" / "config.yaml").exists()


@pytest.mark.parametrize("name", ["llm-adapter", "reduce-0.safetensors", "rejected.jsonl", "config.yaml"])
def test_what_a_training_did_not_write_stays(name: str, written: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(VitaError, match=f"contains {name}, which this training did not write and would replace"):
        run_stages(resolve(written), tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_edited_captions_are_other_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat .")
    before = stamp(str(tmp_path))
    assert stamp(str(tmp_path)) == before
    (tmp_path / "a.txt").write_text("a dog .")
    assert stamp(str(tmp_path)) != before
