"""What a training prints on a terminal: one bar for each phase, with its numbers."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml
from conftest import GOLDEN

pytestmark = pytest.mark.slow
NUMBERS = ("loss=", "lr=", "pictures/s=", "held out=")


def on_a_terminal(line: list[str]) -> str:
    """Run a command whose stderr is a terminal of 200 columns, and return what it shows there."""
    own, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=its) as running:
        os.close(its)
        shown = b""
        while True:
            try:
                part = os.read(own, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(own)
    assert running.returncode == 0, shown.decode()
    return shown.decode()


def bars(shown: str) -> dict[str, list[str]]:
    """The states of each bar, by its name."""
    found: dict[str, list[str]] = {}
    for state in re.split(r"[\r\n]+", shown):
        if match := re.match(r"\s*([\w-]+): +\d+%\|", state):
            found.setdefault(match[1], []).append(state)
    return found


@pytest.fixture
def staged(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    stage = {"name": "align", "train": {"projector": "full"}, "learning_rate": 1e-2, "steps": 8, "batch_size": 4}
    data = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": [stage | {"eval_steps": 2}]},
    }
    file = tmp_path / "one-stage.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_one_bar_a_phase(staged: Path, tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vita_core", "train"]
    setting = {
        "steps": 8,
        "batch_size": 4,
        "warm_start_steps": 4,
        "warm_start_batch": 4,
        "variants": 1,
        "held_out": 0.25,
    }
    flat = [str(tiny_config), "--data", str(captioned), "--set", f"training={json.dumps(setting | {'eval_steps': 2})}"]
    for line, names in (([str(staged)], ["align"]), (flat, ["features", "warm-start", "alignment"])):
        shown = on_a_terminal([*command, *line, "--out", str(tmp_path / names[-1])])
        found = bars(shown)
        assert list(found) == names
        last = found[names[-1]][-1]
        assert re.search(r"100%\|.*\| 8/8 \[\d\d:\d\d<\d\d:\d\d", last)  # the time that passed, and what is left
        assert all(number in last for number in NUMBERS), last
        assert "{'" not in shown  # transformers' own lines
        assert "warning" not in shown.lower()
