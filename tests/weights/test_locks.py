"""A directory that one process has for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vita_core import VitaError, load_config
from vita_core.planning.resolution import resolve
from vita_core.training.running import run_stages
from vita_core.training.train import train
from vita_core.weights.locks import alone

HOLD = """
import sys
from pathlib import Path
from vita_core.weights.locks import alone

with alone(Path(sys.argv[1]), "vita train"):
    print("locked", flush=True)
    sys.stdin.read()
"""
TAKEN = r"another process is writing to it, such as the same `vita train`\. Try: wait"


@pytest.mark.slow
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(VitaError, match=TAKEN), alone(tmp_path, "vita train"):
            pass
        holder.kill()
    with alone(tmp_path, "vita train"):
        assert not [*tmp_path.iterdir()]


@pytest.mark.reliability(
    door="directory of a training",
    fault="a second training with the same --out, while the first one runs",
    expected="an error that names the directory; the first goes on",
)
def test_two_trainings_do_not_write_to_one_directory(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    out, quick = tmp_path / "out", ["training={steps: 1, batch_size: 2, warm_start_steps: 0, variants: 1}"]
    stages = [
        f"data={{c: {{path: {captioned}}}}}",
        "training={stages: [{name: a, train: {projector: full}, steps: 1, learning_rate: 0.01, batch_size: 2}]}",
    ]
    for name, start in {
        "flat": lambda out: train(load_config(tiny_config, quick), [captioned], out),
        "staged": lambda out: run_stages(resolve(tiny_config, stages), out),
    }.items():
        work = out / name / "work"
        work.mkdir(parents=True)
        with pytest.raises(VitaError, match=f"{work}: {TAKEN}"), alone(work, "vita train"):
            start(out / name)
        assert {path.name for path in work.iterdir()} <= {"run.json"}
