"""`vita train` in stages, killed while it writes, and called again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import vita
from safetensors.torch import load_file

from vita_core.planning.resolution import resolve
from vita_core.training.checkpoints import last_checkpoint
from vita_core.training.running import run_stages

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
STAGES = [
    {"name": "align", "train": {"projector": "full"}, "steps": 3},
    {
        "name": "finetune",
        "train": {"projector": "full", "llm": {"lora": {"rank": 2, "dropout": 0.3}}, "tower": {"from_layer": 2}},
        "steps": 4,
    },
]
KILLER = """
import os, re, signal, sys

FOLDER, PLACE = os.environ["KILL_UNDER"], os.environ["KILL_AT"]
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "shutil.rmtree"}
done = []

def watch(event, args):
    if event not in CHANGES or not (paths := [str(arg) for arg in args[:2] if str(arg).startswith(FOLDER)]):
        return
    if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if not done and re.search(PLACE, f"{event} {paths[-1]}"):
        done.append(True)
        if event == "open":
            with open(args[0], "wb") as half:  # the file as a process leaves it that dies within it
                half.write(b'{"half')
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""


@pytest.fixture
def written(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """A config with two stages, in a folder with a plugin that kills the process where it is told to."""
    rest = {"learning_rate": 1e-2, "batch_size": 4, "save_steps": 1, "eval_steps": 2}
    data = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": [stage | rest for stage in STAGES]},
    }
    file = tmp_path / "two-stages.yaml"
    file.write_text(yaml.safe_dump(data))
    (tmp_path / "killer.py").write_text(KILLER)
    return file


def trained(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(out)}:{key}": value
        for file in sorted(out.rglob("*.safetensors"))
        if "work" not in file.parts
        for key, value in load_file(file).items()
    }


@pytest.mark.reliability(
    door="training in stages",
    fault="killed at five moments",
    expected="the same command ends with the same bits",
)
def test_a_run_that_is_killed_anywhere_ends_as_an_undisturbed_one(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole, out = tmp_path / "whole", tmp_path / "killed"
    scores = run_stages(resolve(written), whole)
    moments = [
        r"open .*align/checkpoint-2/trainer_state\.json",  # half of it is written
        r"mkdir .*work/finetune$",  # between the stages
        r"rename .*finetune/checkpoint-3/trained\.safetensors",
        r"rename .*finetune/done\.safetensors",  # its scores are there, its weights are not
        r"rename .*killed/projector\.safetensors",  # half of the result is in its place
    ]
    for moment in moments:
        killed = vita("-p", "killer", "train", written, "--out", out, KILL_AT=moment, KILL_UNDER=str(out))
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        assert not (out / "config.yaml").exists()
    assert run_stages(resolve(written), out) == scores
    expected, found = trained(whole), trained(out)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    records = [json.loads((folder / "provenance.json").read_text()) for folder in (whole, out)]
    assert records[0]["tensors_sha256"] == records[1]["tensors_sha256"]


@pytest.mark.reliability(
    door="training in stages",
    fault="killed while it replaces an earlier result",
    expected="no config opens half of each; the next run ends well",
)
def test_an_earlier_result_does_not_open_while_it_is_replaced(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage alone, then both: between the two, no config opens half of each."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    run_stages(resolve(written), out, only="align")
    assert (out / "config.yaml").exists()
    at = {"KILL_AT": r"rename .*out/(tower|llm-adapter|projector)", "KILL_UNDER": str(out)}
    assert vita("-p", "killer", "train", written, "--out", out, **at).returncode == -signal.SIGKILL
    assert not (out / "config.yaml").exists()
    scores = run_stages(resolve(written), out)
    assert {"tower", "llm-adapter", "config.yaml"} <= {entry.name for entry in out.iterdir()}
    assert run_stages(resolve(written), out, only="align") == scores  # it is finished, and stays


@pytest.mark.reliability(
    door="training in stages",
    fault="Ctrl-C",
    expected="130, a checkpoint, and the command that goes on",
)
def test_ctrl_c_saves_and_says_how_to_go_on(written: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "out", yaml.safe_load(written.read_text())
    config["training"]["stages"][0] |= {"steps": 4000, "save_steps": 4000, "eval_steps": 4000}
    written.write_text(yaml.safe_dump(config))
    line = [sys.executable, "-m", "vita_core", "train", str(written), "--out", str(out)]
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    while running.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        pass
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "Traceback" not in told
    assert f"To go on, run the same command again: vita train {written} --out {out}" in told
    last = last_checkpoint(out / "work" / "align")
    assert last is not None
    state: Any = json.loads((Path(last) / "trainer_state.json").read_text())
    assert state["global_step"] == len([row for row in state["log_history"] if "loss" in row]) >= 4
