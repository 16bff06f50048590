"""A training in stages, from its config to a directory that opens with the trained values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import vita
from safetensors.torch import load_file

from vita_core import VitaError, build_model
from vita_core.planning.resolution import resolve
from vita_core.training.joint import Joint, collate
from vita_core.training.running import run_stages

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
STAGES = [
    {
        "name": "align",
        "train": {"projector": "full"},
        "learning_rate": 1e-2,
        "steps": 3,
        "batch_size": 2,
        "prompt": "plain",
    },
    {
        "name": "finetune",
        "train": {"projector": "full", "llm": {"lora": {"rank": 2, "dropout": 0.1}}, "tower": {"from_layer": 2}},
        "learning_rate": 1e-2,
        "epochs": 1,
        "batch_size": 4,
        "save_steps": 1,
        "eval_steps": 1,
    },
]


@pytest.fixture
def written(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """A config with two stages on twelve captions, of which three are held out."""
    file = tmp_path / "two-stages.yaml"
    data = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": STAGES},
    }
    file.write_text(yaml.safe_dump(data))
    return file


def test_two_stages_open_with_the_trained_values(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scores = run_stages(resolve(written), out)
    assert list(scores) == ["align", "finetune"]
    assert scores["align"]["steps"] == 3
    assert scores["finetune"]["steps"] == 3  # 9 samples in batches of 4
    assert all(score["held_out_loss"] > 0 for score in scores.values())
    assert sorted(entry.name for entry in out.iterdir()) == [
        "config.yaml", "llm-adapter", "metrics.jsonl", "projector.safetensors", "provenance.json", "tower", "work",
    ]  # fmt: skip
    model = build_model(out)
    done = load_file(out / "work" / "finetune" / "done.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name.removeprefix("model.")], value) for name, value in done.items())
    frozen = build_model(written).tower.state_dict()
    moved = {name for name, value in model.tower.state_dict().items() if not torch.equal(value, frozen[name])}
    assert moved
    assert not any("embed" in name or "layers.0" in name or "blocks.0" in name for name in moved)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"align", "finetune"}
    assert [row["step"] for row in rows if row["stage"] == "finetune" and "loss" in row] == [1, 2, 3]
    assert run_stages(resolve(written), out, only="align") == scores
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert run_stages(resolve(written), out) == scores
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_stage_may_run_by_itself_first(written: Path, tmp_path: Path) -> None:
    first = run_stages(resolve(written), tmp_path / "out", only="align")
    assert list(first) == ["align"]
    assert not (tmp_path / "out" / "llm-adapter").exists()
    both = run_stages(resolve(written), tmp_path / "out")
    assert both["align"] == first["align"]
    whole = run_stages(resolve(written), tmp_path / "whole")
    assert both == whole


def test_a_run_that_stopped_goes_on_to_the_same_values(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages(resolve(written), tmp_path / "whole")
    forward, left = Joint.forward, [0]

    def interrupted(self: Joint, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    for batches in (3, 7, 9):  # in the first stage, in the score after it, in the second stage
        left[0] = batches
        with monkeypatch.context() as patched:
            patched.setattr(Joint, "forward", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_stages(resolve(written), tmp_path / "parts")
    run_stages(resolve(written), tmp_path / "parts")
    for name in ("projector.safetensors", "tower/model.safetensors", "llm-adapter/adapter_model.safetensors"):
        whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name


@pytest.mark.slow
def test_the_command(written: Path, captioned: Path, tmp_path: Path, golden: Path) -> None:
    out = tmp_path / "out"
    first = vita("train", written, "--out", out, "--stage", "align", "--json")
    assert json.loads(first.stdout)["align"]["steps"] == 3
    assert not (out / "tower").exists()
    told = vita("train", written, "--out", tmp_path / "other", "--data", f"captins={captioned}")
    assert told.returncode == 2
    assert "--data: no data set of this name: 'captins'. Did you mean 'captions'?" in told.stderr
    assert (
        "wrote" in vita("train", written, "--out", tmp_path / "other", "--data", captioned, "--stage", "align").stdout
    )
    assert vita("run", out, "--image", golden / "pictures" / "wide.png").stdout
    told = vita("train", written, "--out", out, "--licence", "CC0")
    assert told.returncode == 2
    assert "--licence: with `training.stages`, a data set states its own: 'CC0'" in told.stderr
    told = vita("train", written, "--out", out, "--stage", "algn")
    assert told.returncode == 2
    assert "--stage: no stage of this name: 'algn'" in told.stderr


def test_bad_samples_are_left_out_and_told(written: Path, captioned: Path, tmp_path: Path) -> None:
    rows = captioned.read_text().splitlines()
    captioned.write_text("\n".join([*rows, '{"image": "missing.png", "caption": "a cat ."}']) + "\n")
    run_stages(resolve(written, ["data.captions.held_out=0"]), tmp_path / "out")
    (rejected,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert (rejected["data"], rejected["reason"]) == ("captions", "a picture is missing")
    with pytest.raises(VitaError, match=r"data\.captions: .*a picture is missing"):
        run_stages(resolve(written, ["data.captions.held_out=0"]), tmp_path / "strict", strict=True)


def test_a_model_of_both_is_the_one_that_was_trained(written: Path, tmp_path: Path) -> None:
    """The values that the trained model computes are those of the opened one, to the bit."""
    made: list[Any] = []
    from vita_core.training import running

    build = running.build
    running.build = lambda *args, **options: made.append(build(*args, **options)) or made[-1]  # type: ignore[func-returns-value]
    try:
        run_stages(resolve(written), tmp_path / "out")
    finally:
        running.build = build
    batch = {"input_ids": torch.tensor([3, -200, 5, 6]), "labels": torch.tensor([-100, -100, 5, 6])}
    pixels = torch.randn(1, *made[0].tower.shape.pixels)
    joined = collate([{**batch, "pixels": [pixels], "sizes": [(56, 56)]}])
    with torch.no_grad():
        assert torch.equal(Joint(build_model(tmp_path / "out"))(joined), Joint(made[0])(joined))
