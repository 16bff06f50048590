"""Which checkpoints a training keeps: the last ones, and the weights with the lowest held-out loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.torch import load_file

from vita_core import VitaError, build_model, load_config
from vita_core.config.training import TrainingConfig
from vita_core.planning.resolution import resolve
from vita_core.training.resumable import ResumableTrainer
from vita_core.training.running import run_stages
from vita_core.training.train import _split as split
from vita_core.training.train import train

STEPS = 6
FLAT = [
    "training={steps: 6, batch_size: 4, learning_rate: 0.1, warmup_steps: 0, warm_start_steps: 0, variants: 0, held_out: 0.25, "
    "eval_steps: 1, save_steps: 1}"
]


@pytest.fixture
def written(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """A config with one stage whose held-out loss soon rises: its learning rate is far too large."""
    stage = {"name": "align", "train": {"projector": "full", "llm": "full"}, "learning_rate": 0.1}
    stage |= {"schedule": "constant", "warmup": 0.0, "steps": STEPS, "batch_size": 4, "save_steps": 1, "eval_steps": 1}
    data = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": [stage]},
    }
    file = tmp_path / "one-stage.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.fixture
def unlike(captioned: Path) -> Path:
    """Data whose held-out pictures have another caption than the others, so that what is learned does not help them."""
    rows = [json.loads(line) for line in captioned.read_text().splitlines()]
    _, held = split(len(rows), TrainingConfig(held_out=0.25))
    rows = [{**row, "caption": "a dog ." if at in held else "a cat ."} for at, row in enumerate(rows)]
    captioned.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return captioned


def held_out_losses(out: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}


def kept(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_last_checkpoints_and_the_best_weights_stay(written: Path, tmp_path: Path) -> None:
    all_of_them, out, best = (tmp_path / name for name in ("all", "out", "best"))
    scores = run_stages(resolve(written, ["training.keep=10"]), all_of_them)["align"]
    losses = held_out_losses(all_of_them)
    lowest = min(losses, key=lambda step: losses[step])
    assert 1 < lowest < STEPS
    assert scores["best"] == {"step": lowest, "held_out_loss": losses[lowest]}
    assert scores["held_out_loss"] == losses[STEPS]
    folder = all_of_them / "work" / "align"
    assert {f"checkpoint-{step}" for step in range(1, STEPS + 1)} < kept(folder)

    assert run_stages(resolve(written), out)["align"] == scores
    assert kept(out / "work" / "align") == {
        f"checkpoint-{STEPS - 1}", f"checkpoint-{STEPS}", "best.safetensors", "done.safetensors", "scores.json"
    }  # fmt: skip
    weights = load_file(out / "work" / "align" / "best.safetensors")
    assert same(weights, load_file(folder / f"checkpoint-{lowest}" / "trained.safetensors"))
    with safe_open(out / "work" / "align" / "best.safetensors", framework="pt") as handle:
        assert handle.metadata() == {"step": str(lowest), "held_out_loss": repr(losses[lowest])}
    record = json.loads((out / "provenance.json").read_text())
    assert record["results"]["align"]["scores"]["best"]["step"] == lowest
    model = build_model(out)
    model.load_state_dict(weights, strict=False)  # as the documentation says
    assert same({name: model.state_dict()[name] for name in weights}, weights)

    scores = run_stages(resolve(written, ["training.stages.0.best=true"]), best)["align"]
    assert scores["held_out_loss"] == losses[lowest]
    opened = build_model(best).state_dict()
    assert same({name: opened[name] for name in weights}, weights)


def test_a_resumed_stage_ends_with_the_same_best(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["training.stages.0.best=true", "training.stages.0.save_steps=3"]
    scores = run_stages(resolve(written, settings), tmp_path / "whole")
    evaluate, left = ResumableTrainer.evaluate, [0]

    def killed(self: ResumableTrainer, *arguments: Any, **keywords: Any) -> Any:
        metrics = evaluate(self, *arguments, **keywords)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return metrics

    for evaluations in (2, 5):  # the best weights are written, and their step comes again; then after a checkpoint
        left[0] = evaluations
        with monkeypatch.context() as patched:
            patched.setattr(ResumableTrainer, "evaluate", killed)
            with pytest.raises(KeyboardInterrupt):
                run_stages(resolve(written, settings), tmp_path / "parts")
    assert run_stages(resolve(written, settings), tmp_path / "parts") == scores
    for name in ("best.safetensors", "done.safetensors"):
        whole, parts = (load_file(tmp_path / run / "work" / "align" / name) for run in ("whole", "parts"))
        assert same(parts, whole), name


def test_a_training_without_stages_keeps_them_too(tiny_config: Path, unlike: Path, tmp_path: Path) -> None:
    scores = train(load_config(tiny_config, [*FLAT, "training.keep=1"]), [unlike], tmp_path / "last")
    losses = held_out_losses(tmp_path / "last")
    lowest = min(losses, key=lambda step: losses[step])
    assert lowest < STEPS
    assert scores["best"] == {"step": lowest, "held_out_loss": losses[lowest]}
    assert kept(tmp_path / "last" / "work" / "alignment") == {f"checkpoint-{STEPS}", "best.safetensors"}
    scores = train(load_config(tiny_config, [*FLAT, "training.best=true"]), [unlike], tmp_path / "best")
    assert scores["held_out_loss"] == losses[lowest]
    folder = tmp_path / "best" / "work" / "alignment"
    assert kept(folder) == {f"checkpoint-{STEPS - 1}", f"checkpoint-{STEPS}", "best.safetensors"}
    best = {key: value.half() for key, value in load_file(folder / "best.safetensors").items()}
    assert same(load_file(tmp_path / "best" / "projector.safetensors"), best)
    assert not same(load_file(tmp_path / "last" / "projector.safetensors"), best)


def test_the_best_needs_something_to_compare(written: Path, tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    with pytest.raises(VitaError, match=r"training\.stages\[0\]\.best: no data set of this stage has held-out samples"):
        run_stages(resolve(written, ["training.stages.0.best=true", "data.captions.held_out=0"]), tmp_path / "out")
    with pytest.raises(VitaError, match=r"training\.best: no sample is held out: 0\.01 of 12"):
        train(load_config(tiny_config, [*FLAT, "training.best=true", "training.held_out=0.01"]), [captioned], tmp_path)
    with pytest.raises(VitaError, match=r"'best' is a key of each stage"):
        resolve(written, ["training.best=true"])
    huge = ["training.stages.0.best=true", "training.stages.0.learning_rate=1e37", "training.stages.0.clip=1e38"]
    huge += ["training.stages.0.steps=1"]  # its loss is that of the weights before
    with pytest.raises(VitaError, match=r"best\.safetensors: no held-out loss is a number"):
        run_stages(resolve(written, huge), tmp_path / "out")


@pytest.mark.reliability(
    door="checkpoints of a training",
    fault="one that was written in half",
    expected="it is deleted, and the one before is used",
)
def test_half_a_checkpoint_is_not_kept(written: Path, tmp_path: Path) -> None:
    half = tmp_path / "out" / "work" / "align" / "checkpoint-5"
    half.mkdir(parents=True)
    (half / "trained.safetensors").write_bytes(b"half")
    (tmp_path / "out" / "work" / "align" / "checkpoint-4").mkdir()
    run_stages(resolve(written, ["training.stages.0.save_steps=3", "training.keep=10"]), tmp_path / "out")
    checkpoints = {name for name in kept(half.parent) if name.startswith("checkpoint")}
    assert checkpoints == {"checkpoint-3", "checkpoint-6"}
