"""A disk that is full in the middle of a training: one error, and with space the run goes on to the same values."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import GOLDEN, vita
from safetensors.torch import load_file

from vita_core import VitaError, load_config
from vita_core.cli import main
from vita_core.planning.resolution import resolve
from vita_core.training.running import run_stages
from vita_core.training.train import train

pytestmark = pytest.mark.slow
FLAT = [
    "training={steps: 2, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1, held_out: 0.25, eval_steps: 1, "
    "save_steps: 1}"
]
STAGED_MOMENTS = [
    # when the disk is full, and what cannot be written
    (r"open .*work/\.run\.\w+\.\w+\.partial/", r"work/run\.json: no space .* 91 are needed, 0 are free"),
    (r"open .*out/rejected\.jsonl", r"out/rejected\.jsonl: no space .* [\d,]+ are needed"),
    (r"open .*out/metrics\.jsonl", r"out/metrics\.jsonl: no space .* [\d,]+ are needed"),
    (r"open .*\.best\.\w+\.\w+\.partial/", r"align/best\.safetensors: no space .* 5,568 are needed"),
    (r"open .*checkpoint-1/\.trained", r"checkpoint-1/trained\.safetensors: no space .* 5,568 are needed"),
    (r"rename .*checkpoint-2/trained", r"align/checkpoint-2: no space .* 16,704 are needed"),  # optimizer.pt
    (r"open .*cache/\.features", r"cache/features-\w+\.safetensors: no space .* [\d,]+ are needed"),
    (r"open .*align/\.scores\.\w+\.\w+\.partial/", r"align/scores\.json: no space .* [\d,]+ are needed"),
    (r"open .*align/\.done\.\w+\.\w+\.partial/", r"align/done\.safetensors: no space .* 5,568 are needed"),
    (r"open .*made/\.projector\.\w+\.\w+\.partial/", r"made/projector\.safetensors: no space"),
    (r"open .*made/config\.yaml", r"work/made: no space"),
    (r"open .*made/\.provenance\.\w+\.\w+\.partial/", r"made/provenance\.json: no space .* [\d,]+ are needed"),
    (r"rename .*out/config\.yaml", r"work/run\.json: no space .* [\d,]+ are needed"),
]
FLAT_MOMENTS = [
    (r"open .*work/features\.npy", r"features\.npy: no space .* 24,576 are needed"),
    (r"open .*work/\.features\.\w+\.\w+\.partial/", r"work/features\.json: no space .* [\d,]+ are needed"),
    (r"open .*out/metrics\.jsonl", r"out/metrics\.jsonl: no space .* [\d,]+ are needed"),
    (r"rename .*warm-start/checkpoint-1/trained", r"warm-start/checkpoint-1: no space .* 16,704 are needed"),
    (r"open .*work/\.warm_start\.\w+\.\w+\.partial/", r"work/warm_start\.safetensors: no space .* 5,568 are needed"),
    (r"rename .*alignment/checkpoint-2/trained", r"alignment/checkpoint-2: no space .* 16,704 are needed"),
    (r"open .*out/\.held_out\.\w+\.\w+\.partial/", r"out/held_out\.jsonl: no space .* [\d,]+ are needed"),
    (r"open .*out/\.projector\.\w+\.\w+\.partial/", r"out/projector\.safetensors: no space .* 2,784 are needed"),
    (r"open .*out/\.config\.\w+\.\w+\.partial/", r"out/config\.yaml: no space .* [\d,]+ are needed"),
    (r"open .*out/\.provenance\.\w+\.\w+\.partial/", r"out/provenance\.json: no space .* [\d,]+ are needed"),
    (r"rename .*out/provenance", r"work/run\.json: no space .* [\d,]+ are needed"),
]
moment: dict[str, Any] = {}
"""What `fill` is, and the place at which it is called once."""


def watch(event: str, args: tuple[Any, ...]) -> None:
    if not moment or event not in {"open", "os.mkdir", "os.rename"}:
        return
    path = str(args[1] if event == "os.rename" else args[0])
    if re.search(moment["place"], f"{event.removeprefix('os.')} {path}"):
        act = moment["fill"]
        moment.clear()
        act()


sys.addaudithook(watch)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"only root may mount a small disk: {made.stderr.decode()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # a traceback may still hold the mapped features


@pytest.fixture
def bad(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """A config with one stage, and data of which one picture is missing."""
    with captioned.open("a") as rows:
        rows.write('{"image": "missing.png", "caption": "a cat ."}\n')
    stage = {"name": "align", "train": {"projector": "full"}, "learning_rate": 1e-2, "steps": 2, "batch_size": 16}
    data = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": [stage | {"save_steps": 1, "eval_steps": 1}]},
    }
    file = tmp_path / "one-stage.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def result(out: Path) -> dict[str, Any]:
    """The tensors and the scores of a finished run."""
    files = [file for file in sorted(out.rglob("*.safetensors")) if "cache" not in file.parts]
    tensors = {f"{file.relative_to(out)}:{key}": value for file in files for key, value in load_file(file).items()}
    return {**tensors, "scores": json.loads((out / "work" / "run.json").read_text())["finished"]}


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    assert found.keys() == expected.keys()
    return all(
        torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
        for key, value in expected.items()
    )


@pytest.mark.extras
def test_a_reporter(
    tiny_config: Path, captioned: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = disk / "out"
    line = ["vita", "train", str(tiny_config), "--data", str(captioned), "--out", str(out), "--set", FLAT[0]]
    monkeypatch.setattr(sys, "argv", [*line, "--set", "training.report_to=[tensorboard]"])
    moment.update(place=r"open .*tfevents", fill=lambda: fill(disk / "filler"))
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr().err
    assert "work/warm-start: no space is left on the disk" in told
    assert "Traceback" not in told
    (disk / "filler").unlink()
    with pytest.raises(SystemExit, match="0"):
        main()
    assert (out / "provenance.json").is_file()


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(b"\0" * 4096)


def filled_at_each(moments: list[tuple[str, str]], run: Callable[[], object], disk: Path) -> None:
    """Run again and again, each time with a disk that gets full at the next moment."""
    filler = disk / "filler"
    for place, told in moments:
        moment.update(place=place, fill=lambda: fill(filler))
        try:
            with pytest.raises(VitaError, match=told):
                run()
        finally:
            filler.unlink(missing_ok=True)
        assert not moment, f"never reached: {place}"


@pytest.mark.reliability(
    door="training in stages",
    fault="a disk that gets full at each file that is written",
    expected="an error with the file and the space; with space the same bits",
)
def test_every_file_of_a_stage(bad: Path, disk: Path, tmp_path: Path) -> None:
    out = disk / "out"
    run_stages(resolve(bad), tmp_path / "whole")
    filled_at_each(STAGED_MOMENTS, lambda: run_stages(resolve(bad), out), disk)
    run_stages(resolve(bad), out)
    assert same(result(out), result(tmp_path / "whole"))
    for name in ("rejected.jsonl", "metrics.jsonl"):
        assert all(json.loads(line) for line in (out / name).read_text().splitlines())
    assert (out / "rejected.jsonl").read_text() == (tmp_path / "whole" / "rejected.jsonl").read_text()


@pytest.mark.reliability(
    door="training without stages",
    fault="a disk that gets full at each file that is written",
    expected="an error with the file and the space; with space the same bits",
)
def test_every_file_without_stages(tiny_config: Path, captioned: Path, disk: Path, tmp_path: Path) -> None:
    out, config = disk / "out", load_config(tiny_config, FLAT)
    train(config, [captioned], tmp_path / "whole")
    filled_at_each(FLAT_MOMENTS, lambda: train(config, [captioned], out), disk)
    train(config, [captioned], out)
    assert same(result(out), result(tmp_path / "whole"))


@pytest.mark.reliability(
    door="training in stages",
    fault="a small disk",
    expected="one error, exit code 2; with space the same bits",
)
def test_the_command_on_a_small_disk(bad: Path, disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64k", disk], check=True)
    told = vita("train", bad, "--out", disk / "out")
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"no space .* Try: free some space", line), line
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    assert vita("train", bad, "--out", disk / "out").returncode == 0
    assert vita("train", bad, "--out", tmp_path / "whole").returncode == 0
    assert same(result(disk / "out"), result(tmp_path / "whole"))
