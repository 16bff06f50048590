"""The tables of reliability.md: a row for each door and kind of fault, from the marks of the tests, and the last long run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from marked import filled
from reliability import Row

STRESS_HEAD = ["| door | seeds | files | results | refused | seconds |", "| --- | --- | --- | --- | --- | --- |"]
HEAD = ["| door | fault | expected | tested by | cases |", "| --- | --- | --- | --- | --- |"]


def told(test: str, cases: int) -> str:
    """How the table names a test, with the number of its cases if there are several."""
    file, _, name = test.partition("::")
    return f"`{file.removeprefix('tests/')}`: `{name}`" + (f" ({cases})" if cases > 1 else "")


def line(row: Row) -> str:
    """The line of one row."""
    tests = ", ".join(told(test, cases) for test, cases in sorted(row.tests.items()))
    return f"| {row.door} | {row.fault} | {row.expected} | {tests} | {sum(row.tests.values())} |"


def table(rows: Sequence[Row]) -> list[str]:
    """The table of all rows, and how many there are."""
    cases = sum(sum(row.tests.values()) for row in rows)
    return [f"{len(rows)} rows, {cases} cases.", "", *HEAD, *map(line, rows)]


def long_run() -> list[str]:
    """The table of the last `make stress`, from stress.json."""
    run = json.loads((Path(__file__).parent / "stress.json").read_text(encoding="utf-8"))
    lines = [f"The last one was on {run['date']}.", "", *STRESS_HEAD]
    for door, told in run["doors"].items():
        ends = told["ends"]
        numbers = (sum(ends.values()), ends.get("result", 0), ends.get("refused", 0), told["seconds"])
        first, last = told["seeds"]
        lines.append(f"| {door} | {first} to {last} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    total = sum(sum(told["ends"].values()) for told in run["doors"].values())
    return [*lines, "", f"{total:,} files in all."]


def reliability(page: str, rows: Sequence[Row]) -> str:
    """Return reliability.md with new tables."""
    return filled(filled(page, "matrix", table(rows)), "stress", long_run())
