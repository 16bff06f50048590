"""The benchmarks' guard, on made-up results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import guard


def write(folder: Path, script: str, **cells: object) -> None:
    rows = [{"what": "a", "size": 3, "seconds": 0.25, **cells}]
    (folder / f"{script}.json").write_text(json.dumps({"claim": "", "machine": {}, "rows": rows}))


def cell(median: float, low: float | None = None, high: float | None = None) -> dict[str, float]:
    return {"median": median, "low": low or median, "high": high or median}


def test_ratios_are_found_by_script_row_and_column(tmp_path: Path) -> None:
    write(tmp_path, "loader", ratio=cell(0.5), other=0.7)
    write(tmp_path, "unknown", ratio=cell(0.5))
    assert guard.ratios(tmp_path) == {("loader", "a, 3", "ratio"): cell(0.5)}


@pytest.mark.parametrize(
    ("column", "found", "flagged"),
    [
        ("ours / theirs", cell(1.0), False),
        ("ours / theirs", cell(1.09), False),
        ("ours / theirs", cell(1.3, low=1.05), False),  # one round was as before: the machine was busy
        ("ours / theirs", cell(1.3, low=1.2), True),
        ("ours / theirs", cell(0.2), False),
        ("original / ours", cell(0.2), True),
        ("original / ours", cell(1.3), False),
        ("original / ours", cell(0.5, high=0.95), False),
    ],
)
def test_what_is_worse(column: str, found: dict[str, float], flagged: bool, capsys: pytest.CaptureFixture[str]) -> None:
    key = ("loader", "a, 3", column)
    assert [k for k, *_ in guard.worse({key: found}, {key: cell(1.0)})] == [key] * flagged
    assert guard.compared({key: found}, {key: cell(1.0)}) == int(flagged)
    told = capsys.readouterr().out
    assert ("worse by more than 10%" in told) == flagged
    assert ("1 ratios within 10% of the baseline" in told) == (not flagged)


@pytest.mark.parametrize(
    ("column", "found", "flagged"),
    [
        ("ours / theirs", cell(1.3), False),  # the baseline had a round of 1.2
        ("ours / theirs", cell(1.33), True),
        ("original / ours", cell(0.75), False),
        ("original / ours", cell(0.7), True),
    ],
)
def test_what_the_baseline_varied_is_no_regression(column: str, found: dict[str, float], flagged: bool) -> None:
    key = ("loader", "a, 3", column)
    assert guard.compared({key: found}, {key: cell(1.0, low=0.8, high=1.2)}) == int(flagged)


def test_what_is_new_or_gone_is_told_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard.compared({("loader", "a", "new"): cell(9.0)}, {("loader", "b", "gone"): cell(0.1)}) == 0
    told = capsys.readouterr().out
    assert "not in the baseline: loader, a, new" in told
    assert "not measured now: loader, b, gone" in told


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert guard.read_baseline(file) == {}
    given = {("s2", "a, 1", "r"): cell(1.5, low=1.25, high=2.0), ("load", "b", "r"): cell(0.5)}
    guard.write_baseline(file, given)
    assert guard.read_baseline(file) == given


def test_scripts_of_the_folder_are_all_known() -> None:
    helpers = {"cases", "common", "families", "fewer_tokens", "photos", "guard", "quickstart", "watched"}
    there = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")} - helpers
    assert there <= set(guard.SCRIPTS)


@pytest.mark.slow
def test_make_bench_end_to_end(tmp_path: Path) -> None:
    """A fast benchmark of its own in a copy of the folder: no baseline, then one, then a regression, then a failure."""
    for name in ("guard.py", "common.py"):
        (tmp_path / name).write_bytes((REPOSITORY / "benchmarks" / name).read_bytes())
    script = (
        "from common import report\nimport sys\nassert sys.argv[1:] == ['--quick']\n"
        "report('s2', 'x', ['w', 'r'], [{'w': 'a', 'r': {'median': %s, 'low': %s, 'high': %s}}])\n"
    )

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, tmp_path / "guard.py", *arguments], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    (tmp_path / "s2.py").write_text(script % (1, 1, 1))
    assert run("--update")[0] == 0
    assert json.loads((tmp_path / "baseline.json").read_text())[0]["median"] == 1
    assert run()[0] == 0
    (tmp_path / "s2.py").write_text(script % (2, 2, 2))
    status, told = run()
    assert status == 1
    assert "worse by more than 10%" in told
    (tmp_path / "s2.py").write_text("raise SystemExit(3)")
    status, told = run()
    assert status == 1
    assert "failed: s2" in told
    assert not (tmp_path / "results").exists()


def test_several_encoders_hold_no_more_than_the_larger_and_the_output(
    tower_examples: dict[str, dict[str, Any]],
) -> None:
    """The tokens of the second are resized; what they were before is free again when both are joined."""
    import torch
    from watched import held

    from vita_core import build_tower
    from vita_core.pixels.fused import FusedPixels

    second = {**tower_examples["transformers"], "reduce": {"type": "pool", "grid": [4, 3]}}
    parts = [{**part, "max_batch": 1} for part in (tower_examples["siglip"], second)]
    pixels = torch.rand(64, 3, 56, 56)
    with torch.inference_mode():
        whole, output = held(build_tower({"towers": parts}), FusedPixels([pixels, pixels]))
        larger = max(held(build_tower(part), pixels)[0] for part in parts)
    assert output == 64 * 16 * build_tower({"towers": parts}).hidden_size * 4
    assert whole <= larger + output
