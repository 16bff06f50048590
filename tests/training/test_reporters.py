"""`training.report_to`: TensorBoard, Weights & Biases and MLflow show a training, and nothing leaves the machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_keeping import FLAT, written

from vita_core import VitaError, load_config
from vita_core.planning.resolution import resolve
from vita_core.training.running import run_stages
from vita_core.training.train import train

__all__ = ["written"]

reached: list[str] = []
"""The addresses that this process connects to while `offline` watches."""
watching: list[bool] = []


def watch(event: str, args: tuple[object, ...]) -> None:
    if watching and event == "socket.connect":
        reached.append(str(args[1]))
    elif watching and event == "socket.getaddrinfo":
        reached.append(str(args[0]))


sys.addaudithook(watch)


@pytest.fixture
def offline() -> Iterator[None]:
    """Fails if this process connects to another machine."""
    reached.clear()
    watching.append(True)
    yield
    watching.clear()
    other = [place for place in reached if not any(own in place for own in ("localhost", "127.0.0.1", "::1", "/"))]
    assert not other


def rows(out: Path, stage: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["stage"] == stage and "loss" in row]


def test_a_reporter_that_is_not_installed_is_told_first(
    written: Path, tiny_config: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    told = r"training\.report_to: mlflow is not installed\. Try: `pip install mlflow-skinny`"
    with pytest.raises(VitaError, match=told):
        run_stages(resolve(written, ["training.report_to=[mlflow]"]), tmp_path / "out")
    with pytest.raises(VitaError, match=told):
        train(load_config(tiny_config, [*FLAT, "training.report_to=[mlflow]"]), [captioned], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(VitaError, match=r"training\.report_to\.0: wrong value: .tensorbord"):
        resolve(written, ["training.report_to=[tensorbord]"])


@pytest.mark.extras
@pytest.mark.usefixtures("offline")
def test_tensorboard(written: Path, tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    setting = "training.report_to=[tensorboard]"
    run_stages(resolve(written, [setting]), tmp_path / "staged")
    flat = [*FLAT, "training.warm_start_steps=3", setting]
    train(load_config(tiny_config, flat), [captioned], tmp_path / "flat")
    for out, stage, scored in (("staged", "align", True), ("flat", "warm-start", False), ("flat", "alignment", True)):
        events = EventAccumulator(str(tmp_path / out / "tensorboard" / stage)).Reload()
        shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
        expected = rows(tmp_path / out, stage)
        assert [step for step, _ in shown] == [row["step"] for row in expected]
        assert [value for _, value in shown] == pytest.approx([row["loss"] for row in expected])
        assert ("eval/loss" in events.Tags()["scalars"]) == scored
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


@pytest.mark.extras
@pytest.mark.usefixtures("offline")
def test_mlflow(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stages(resolve(written, ["training.report_to=[mlflow]"]), out)
    (metric,) = (out / "mlruns" / "0").glob("*/metrics/loss")
    lines = [line.split() for line in metric.read_text().splitlines()]
    expected = rows(out, "align")
    assert [int(step) for _, _, step in lines] == [row["step"] for row in expected]
    assert [float(value) for _, value, _ in lines] == pytest.approx([row["loss"] for row in expected])


@pytest.mark.extras
@pytest.mark.usefixtures("offline")
def test_weights_and_biases(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stages(resolve(written, ["training.report_to=[wandb]"]), out)
    import wandb

    assert wandb.run is None
    (folder,) = (out / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    assert b"train/loss" in content
    assert b"eval/loss" in content
