"""A training in two processes beside the same in one, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from vita_core import VitaError, build_model
from vita_core.cli.train import _refuse_stages
from vita_core.planning.resolution import resolve
from vita_core.training.running import run_stages

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
TEXT = {"conversations": [{"from": "human", "value": "what is this ?"}, {"from": "gpt", "value": "a red cup ."}]}
SHARED = {"learning_rate": 1e-2, "warmup": 0.0, "batch_size": 4, "data": "captions"}
STAGES: list[dict[str, Any]] = [
    {**SHARED, "name": "align", "train": {"projector": "full"}, "steps": 3, "prompt": "plain"},
    {
        **SHARED,
        "name": "both",
        "train": {"projector": "full", "llm": {"lora": {"rank": 2}}, "tower": {"from_layer": 2}},
        "steps": 4,
        "accumulate": 2,
        "eval_steps": 2,
    },
    {
        **SHARED,
        "name": "last",
        "train": {"projector": "full", "llm": {"lora": {"rank": 2, "dropout": 0.2}}},
        "steps": 4,
        "save_steps": 2,
    },
]


@pytest.fixture
def written(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """Three stages, the last one with dropout, on pictures and on text alone; of 18 samples, 5 are held out."""
    with captioned.open("a") as opened:
        opened.write((json.dumps(TEXT) + "\n") * 6)
    config = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.3}},
        "training": {"stages": STAGES},
    }
    file = tmp_path / "stages.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def torchrun(
    *arguments: object, folder: Path, processes: int = 2, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``vita train`` in several processes, which leave their records in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    return subprocess.run(
        [str(one) for one in (*launcher, Path(__file__).with_name("watched_run.py"), *arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "WATCHED": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def losses(out: Path, stages: list[str]) -> list[float]:
    return [
        row[key]
        for row in rows(out / "metrics.jsonl")
        for key in ("loss", "eval_loss")
        if key in row and row["stage"] in stages
    ]


@pytest.mark.extras
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2", "zero3"])
def test_two_processes(parallel: str, written: Path, tmp_path: Path) -> None:
    """They give the losses of one process. Killed and resumed, they give the same values to the bit."""
    setting = f"training.parallel={parallel}"
    one, whole, killed = tmp_path / "one", tmp_path / "whole", tmp_path / "killed"
    run_stages(resolve(written, [setting]), one, only="both")
    told = torchrun(written, "--out", whole, "--set", setting, "--json", folder=tmp_path / "seen")
    assert told.returncode == 0, told.stderr
    assert [*json.loads(told.stdout)] == ["out", "align", "both", "last"]  # printed once
    assert losses(whole, ["align", "both"]) == pytest.approx(losses(one, ["align", "both"]), abs=1e-4)
    seen = [rows(tmp_path / "seen" / f"{rank}.jsonl") for rank in (0, 1)]
    assert {(row["world"], row["shared"]) for row in seen[0] if "world" in row} == {(2, parallel != "ddp")}
    assert all(
        row["share"] == 1.0 if parallel == "ddp" else 0.4 < row["share"] < 0.6 for row in seen[0] if "share" in row
    )
    pictures = zip(*[[row["pictures"] for row in each if "pictures" in row] for each in seen], strict=True)
    assert {(first > 0, second > 0) for first, second in pictures} >= {(True, False), (False, True)}

    told = torchrun(written, "--out", killed, "--set", setting, folder=tmp_path / "cut", KILLED="last:3")
    assert time.time() - rows(tmp_path / "cut" / "1.jsonl")[-1]["time"] < 60
    assert told.returncode != 0
    assert "SIGKILL" in told.stderr
    with pytest.raises(VitaError, match="contains a run with another number of processes: 2, now 1"):
        run_stages(resolve(written, [setting]), killed)
    told = torchrun(written, "--out", killed, "--set", setting, folder=tmp_path / "again")
    assert told.returncode == 0, told.stderr
    steps = [(row["stage"], row["step"]) for row in rows(tmp_path / "again" / "0.jsonl") if "step" in row]
    assert steps == [("last", 3), ("last", 4)]
    for done in whole.glob("work/*/done.safetensors"):
        found, expected = load_file(killed / done.relative_to(whole)), load_file(done)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    state = build_model(killed).state_dict()
    trained = load_file(killed / "work" / "last" / "done.safetensors")
    assert all(torch.equal(state[name.removeprefix("model.")], value) for name, value in trained.items())


@pytest.mark.extras
def test_a_mistake_is_told_once(written: Path, tmp_path: Path) -> None:
    out, setting = tmp_path / "out", "training.stages.0.batch_size=3"
    told = torchrun(written, "--out", out, "--set", setting, folder=tmp_path / "seen")
    assert told.returncode != 0
    assert told.stderr.count("error: training.stages[0].batch_size: 3 samples cannot be shared by 2 processes") == 1
    assert not out.exists()


BAD = {
    "training.parallel=zero3": "parallel: zero3 can be planned, but not trained with",
    "device=cuda:1": "device: cuda:1 would be shared by 3 processes",
    "training.keep=2": r"stages\[0\]\.batch_size: 4 samples cannot be shared by 3 processes",
}


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one of three, as torchrun would tell it."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(("setting", "message"), BAD.items(), ids=list(BAD))
def test_what_several_processes_cannot_do(setting: str, message: str, written: Path, tmp_path: Path) -> None:
    with pytest.raises(VitaError, match=message):
        run_stages(resolve(written, [setting]), tmp_path / "out")


@pytest.mark.usefixtures("three")
def test_without_stages_one_process_trains() -> None:
    with pytest.raises(VitaError, match=r"this config has none, and without stages one process trains, not 3"):
        _refuse_stages({})
