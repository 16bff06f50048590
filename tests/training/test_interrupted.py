"""Ctrl-C in a training without stages: what is done is kept, and the same command goes on to the same values."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

from vita_core import load_config
from vita_core.cli import app
from vita_core.training.checkpoints import last_checkpoint
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.train import train

QUICK = (
    "training={steps: 5, batch_size: 4, warm_start_steps: 5, warm_start_batch: 4, variants: 5, held_out: 0.25, eval_steps: 2, "
    "save_steps: 100}"
)


def pressed_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, count: int) -> None:
    """Press Ctrl-C at the `count`-th call of a method, before it runs."""
    original, left = getattr(owner, name), [count]

    def called(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, called)


def step_of(folder: Path) -> int:
    last = last_checkpoint(folder)
    assert last is not None
    return int(json.loads((Path(last) / "trainer_state.json").read_text())["global_step"])


@pytest.mark.reliability(
    door="training without stages",
    fault="Ctrl-C while it encodes, warms up, trains and scores",
    expected="what is done is kept; the same command ends with the same bits",
)
def test_ctrl_c_at_any_moment(
    tiny_config: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from vita_core.training.align import Alignment
    from vita_core.training.warm_start import WarmStart

    out, command = tmp_path / "out", typer.main.get_command(app)
    line = ["train", str(tiny_config), "--data", str(captioned), "--out", str(out), "--set", QUICK]
    monkeypatch.setattr(sys, "argv", ["vita", *line])
    work = out / "work"
    moments: list[tuple[type, str, int, Callable[[], int], int]] = [
        (FeatureCache, "_check_length", 40, lambda: json.loads((work / "features.json").read_text())["done"], 32),
        (WarmStart, "compute_loss", 3, lambda: step_of(work / "warm-start"), 3),
        (Alignment, "compute_loss", 2, lambda: step_of(work / "alignment"), 2),
        (Alignment, "evaluation_loop", 1, lambda: step_of(work / "alignment"), 4),
    ]
    for owner, name, count, done, expected in moments:
        with monkeypatch.context() as patched:
            pressed_at(patched, owner, name, count)
            assert command.main(line, standalone_mode=False) == 130
        told = capsys.readouterr().err
        assert f"To go on, run the same command again: {shlex.join(['vita', *line])}" in told
        assert "Traceback" not in told
        assert done() == expected, (owner, name)
        assert not (out / "projector.safetensors").exists()
    with monkeypatch.context() as patched:
        patched.setattr(FeatureCache, "_pixels", None)  # no picture is encoded again
        assert not command.main(line, standalone_mode=False)
    scores = train(load_config(tiny_config, [QUICK]), [captioned], tmp_path / "whole")
    assert json.loads((out / "provenance.json").read_text())["scores"] == scores
    whole, parts = (load_file(tmp_path / run / "projector.safetensors") for run in ("whole", "out"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
