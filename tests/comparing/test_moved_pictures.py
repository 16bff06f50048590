"""A comparison whose pictures were moved goes on with them."""

from __future__ import annotations

import shutil
from pathlib import Path

from small import write_config, write_data

from vita_core.comparing.comparison import prepared
from vita_core.comparing.planned import Options, named
from vita_core.comparing.running import Runner


def test_finished_runs_stay_and_others_begin_again(tiny_llm: Path, tmp_path: Path) -> None:
    """A run that was interrupted states the old places of its pictures."""
    data = write_data(tmp_path / "before")
    asked = named([write_config(tmp_path / name / "a.yaml", tiny_llm) for name in "xy"])
    options, out = Options(seeds=(0,), tokens=4), tmp_path / "out"
    planned, found = prepared(asked, data, out, options)
    runner = Runner(out, found)
    first = runner.tested(runner.run(planned[0], None, 0))
    half = runner.run(planned[1], None, 0).folder
    shutil.copytree(out / "runs" / "x-a" / "own" / "seed-0", half)
    for name in ("run.json", "test.jsonl"):
        (half / name).unlink()
    data.parent.rename(tmp_path / "after")
    planned, found = prepared(asked, tmp_path / "after" / data.name, out, options)
    runner = Runner(out, found)
    again, other = (runner.tested(runner.run(one, None, 0)) for one in planned)
    assert not runner.failed
    assert first is not None
    assert again is not None
    assert other is not None
    assert (again.record, again.rows) == (first.record, first.rows)
    assert other.rows == first.rows
