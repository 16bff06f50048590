"""A training in two processes beside the same in one, killed and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from vita_core import VitaError, build_model
from vita_core.cli import app
from vita_core.cli.train import _refuse_stages
from vita_core.models.building import build
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import resolve
from vita_core.planning.training import RankMemory, plan_stages
from vita_core.towers.fused import FusedTower
from vita_core.towers.whole import find_blocks
from vita_core.training import processes
from vita_core.training.running import run_stages
from vita_core.training.stages import resolve_stages

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
        "eval_steps": 1,
        "best": True,
        "precision": "bfloat16",
        "checkpointing": True,
    },
]


@pytest.fixture
def written(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """Three stages, the last one with dropout and recomputed, on pictures and on text alone; of 18 samples, 5 are held out."""
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


def curve(out: Path, key: str, stages: list[str]) -> list[float]:
    return [row[key] for row in rows(out / "metrics.jsonl") if key in row and row["stage"] in stages]


def plans(config: Path, setting: str) -> dict[str, RankMemory]:
    """What `vita plan` says of each stage on two GPUs."""
    resolved = resolve(config, [setting])
    stages = [stage.settings for stage in resolve_stages(resolved, ["captions"], 2)]
    made = plan_stages(resolved, make_plan(resolved), stages, 2)
    return {plan.name: plan.memory[resolved.config.training.parallel] for plan in made}


def check_record(folder: Path, parallel: str, planned: Mapping[str, RankMemory]) -> None:
    """Two processes took part, each with its share of the memory, and some steps had a picture in one of them only.

    Of a tensor with an odd first dimension, `fsdp2` gives the first process one row more.
    """
    seen = [rows(folder / f"{rank}.jsonl") for rank in (0, 1)]
    for each in seen:
        steps = [row for row in each if "step" in row]
        assert [row["step"] for row in steps] == [1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 4]
        assert {(row["world"], row["shared"]) for row in steps} == {(2, parallel != "ddp")}
    for name, plan in planned.items():
        for key in ("weights", "gradients", "optimizer"):
            each_step = [[row[key] for row in each if row.get("stage") == name and key in row] for each in seen]
            first, second = (one.pop() for one in map(set, each_step))
            assert [*map(set, each_step)] == [{first}, {second}]  # the same at each step
            assert first + second == 2 * getattr(plan, key), (name, key)
            assert first == second or (parallel == "fsdp2" and first < 1.01 * second), (name, key)
    pictures = zip(*[[row["pictures"] for row in each if "pictures" in row] for each in seen], strict=True)
    assert {(first > 0, second > 0) for first, second in pictures} >= {(True, False), (False, True)}


@pytest.mark.extras
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2", "zero3"])
def test_two_processes(parallel: str, written: Path, tmp_path: Path) -> None:
    """They give the losses of one process, and keep what is planned. Killed and resumed, they give the same to the bit."""
    setting = f"training.parallel={parallel}"
    one, whole, killed = tmp_path / "one", tmp_path / "whole", tmp_path / "killed"
    run_stages(resolve(written, [setting]), one, only="both")
    told = torchrun(written, "--out", whole, "--set", setting, "--json", folder=tmp_path / "seen")
    assert told.returncode == 0, told.stderr
    assert [*json.loads(told.stdout)] == ["out", "align", "both", "last"]  # printed once
    check_record(tmp_path / "seen", parallel, plans(written, setting))
    for key, count in (("loss", 7), ("grad_norm", 7), ("eval_loss", 3)):
        alone = curve(one, key, ["align", "both"])
        assert len(alone) == count
        assert curve(whole, key, ["align", "both"]) == pytest.approx(alone, rel=1e-4)

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
    check_result(killed, whole, written)


def check_result(out: Path, undisturbed: Path, config: Path) -> None:
    """What was trained is that of another run, to the bit, and is opened again. All else is as before."""
    trained: dict[str, torch.Tensor] = {}
    for stage in ("align", "both", "last"):
        file = Path("work") / stage / "done.safetensors"
        found, expected = load_file(out / file), load_file(undisturbed / file)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        trained |= found
    state = build_model(out).state_dict()
    assert all(torch.equal(state[name], value) for name, value in trained.items())
    plain = {name.replace(".base_layer", ""): value for name, value in state.items()}
    before = build(resolve(config), untrained=True).state_dict()
    frozen = before.keys() - {name.replace(".base_layer", "") for name in trained}
    assert {name.split(".")[0] for name in frozen} == {"tower", "llm"}
    assert all(torch.equal(plain[name], before[name]) for name in frozen)
    question = ["--image", GOLDEN / "pictures" / "wide.png", "--question", "what is this ?", "--json"]
    told = CliRunner().invoke(app, [str(word) for word in ("run", out, *question)])
    assert told.exit_code == 0, told.output


@pytest.mark.extras
@pytest.mark.reliability(
    door="several processes that train",
    fault="a mistake of one",
    expected="it is told as it is",
)
def test_a_mistake_of_one_process_is_told_as_it_is(written: Path, tmp_path: Path) -> None:
    """The other process, which waits for it, does not say that one was lost."""
    told = torchrun(written, "--out", tmp_path / "out", folder=tmp_path / "seen", BROKEN="align:2")
    assert told.returncode != 0
    assert "mat1 and mat2 shapes cannot be multiplied" in told.stderr
    assert "another process of this training" not in told.stderr


def test_only_a_closed_connection_is_a_lost_process() -> None:
    closed = "[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
    remote = "NCCL error, ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely"
    assert all(processes.lost(RuntimeError(message)) for message in (closed, closed.replace("closed", "reset"), remote))
    others = ("CUDA error: peer access is not supported", "NCCL error: invalid usage", "Socket: too many open files")
    assert not any(processes.lost(RuntimeError(message)) for message in others)


@pytest.mark.extras
@pytest.mark.reliability(
    door="several processes that train",
    fault="a mistake in all of them",
    expected="it is told once",
)
def test_a_mistake_is_told_once(written: Path, tmp_path: Path) -> None:
    out, setting = tmp_path / "out", "training.stages.0.batch_size=3"
    told = torchrun(written, "--out", out, "--set", setting, folder=tmp_path / "seen")
    assert told.returncode != 0
    assert told.stderr.count("error: training.stages[0].batch_size: 3 samples cannot be shared by 2 processes") == 1
    assert not out.exists()


BAD = {
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
def test_zero3_needs_deepspeed(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(
        VitaError, match=r"zero3 needs DeepSpeed, which cannot be imported.* `pip install 'vita-core\[zero3\]'`"
    ):
        run_stages(resolve(written, ["training.parallel=zero3"]), tmp_path / "out")


@pytest.mark.usefixtures("three")
def test_without_stages_one_process_trains() -> None:
    with pytest.raises(VitaError, match=r"this config has none, and without stages one process trains, not 3"):
        _refuse_stages({})


@pytest.mark.extras
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2", "zero3"])
def test_processes_agree_on_batch_statistics(parallel: str, written: Path, tmp_path: Path) -> None:
    """Those of the first process are saved, and both score the held-out samples with them."""
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path / "resnet")
    trained = run_in_two(written, tmp_path, parallel, {"weights": str(tmp_path / "resnet"), "image_size": 64})
    first, second = (each["statistics"] for each in trained)
    assert len(first) > 10
    assert first == second
    saved = load_file(tmp_path / "out" / "work" / "align" / "done.safetensors")
    assert sum(first) == pytest.approx(
        sum(value.double().sum().item() for name, value in saved.items() if is_statistic(name))
    )


def is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.extras
@pytest.mark.parametrize("parallel", ["fsdp2", "zero3"])
def test_several_encoders_are_shared_by_blocks(parallel: str, written: Path, tmp_path: Path) -> None:
    parts = [{"weights": str(GOLDEN / "clip")}, {"weights": str(GOLDEN / "siglip")}]
    trained = run_in_two(written, tmp_path, parallel, {"towers": parts})
    if parallel == "fsdp2":
        tower = build_model(tmp_path / "out").tower
        assert isinstance(tower, FusedTower)
        blocks = [len(find_blocks(part.vision_tower)) for part in tower.parts if part.vision_tower is not None]
        shared = [name for name in trained[0]["modules"] if ".tower." in name]
        assert [sum(f".tower.encoder.{part}." in name for name in shared) for part in (0, 1)] == blocks


def run_in_two(written: Path, folder: Path, parallel: str, tower: dict[str, Any]) -> list[dict[str, Any]]:
    """Train another tower and the projector in two processes. Return what each recorded at the end."""
    config = yaml.safe_load(written.read_text())
    stage = STAGES[0] | {"train": {"projector": "full", "tower": "full"}}
    config |= {"tower": tower, "training": {"parallel": parallel, "stages": [stage]}}
    written.write_text(yaml.safe_dump(config))
    told = torchrun(written, "--out", folder / "out", folder=folder / "seen")
    assert told.returncode == 0, told.stderr
    build_model(folder / "out")
    return [rows(folder / "seen" / f"{rank}.jsonl")[-1] for rank in (0, 1)]
