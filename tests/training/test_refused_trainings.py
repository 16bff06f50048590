"""What `vita train` refuses before it opens a weight: options and configs that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import golden_settings
from test_running import written
from torch import nn

from vita_core import VitaError, load_config
from vita_core.cli import app
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training.parts import _train_blocks
from vita_core.training.running import Run, _check_words
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
    Run(tmp_path / "out", resolved)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(VitaError, match=r"another number of processes: 1, now 2\. Try: --nproc-per-node 1"):
        Run(tmp_path / "out", resolved).finished(["align"])


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
