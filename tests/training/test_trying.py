"""`vita train --dry-run`: two steps of each stage, and nothing is written."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest
import typer
from test_running import written

from vita_core import VitaError
from vita_core.cli import app
from vita_core.planning.resolution import resolve
from vita_core.training.trying import try_stages

__all__ = ["written"]


def peak() -> int:
    """The most memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_two_steps_tell_the_time_of_all(written: Path) -> None:
    before, started = peak(), time.monotonic()
    align, finetune = try_stages(resolve(written))
    assert 0 < align.step_seconds + finetune.step_seconds < time.monotonic() - started
    assert before <= align.peak_bytes <= finetune.peak_bytes <= peak()
    assert [align.stage, finetune.stage] == ["align", "finetune"]
    assert (align.steps, finetune.steps) == (3, 3)
    for tried, scored in (
        (align, 3 / 2),
        (finetune, 4 * 3 / 4),
    ):  # three samples are held out; scored once or after each step
        assert tried.seconds == pytest.approx(tried.step_seconds * (3 + scored / 3))
    assert [tried.stage for tried in try_stages(resolve(written), only="align")] == ["align"]


def test_the_option(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = typer.main.get_command(app)
    out = tmp_path / "out"
    line = ["train", str(written), "--out", str(out), "--dry-run"]
    command.main(line, standalone_mode=False)
    told = capsys.readouterr().out
    assert told.startswith("the whole training takes about 0 min ")
    assert "peak memory so far (GB)" in told
    command.main([*line, "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert [row["steps"] for row in found["stages"]] == [3, 3]
    assert found["seconds"] == pytest.approx(sum(row["seconds"] for row in found["stages"]))
    assert not out.exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(VitaError, match="--dry-run: it runs in one process, not 2"):
        command.main(line, standalone_mode=False)
