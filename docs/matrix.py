"""The table of reliability.md: a row for each door and kind of fault, from the marks of the tests."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from reliability import Row

BEGIN, END = "<!-- matrix: begin, written by `make docs` -->", "<!-- matrix: end -->"
HEAD = ["| door | fault | expected | tested by | cases |", "| --- | --- | --- | --- | --- |"]


def told(test: str, cases: int) -> str:
    """How the table names a test, with the number of its cases if there are several."""
    file, _, name = test.partition("::")
    return f"`{file.removeprefix('tests/')}`: `{name}`" + (f" ({cases})" if cases > 1 else "")


def line(row: Row) -> str:
    """The line of one row."""
    tests = ", ".join(told(test, cases) for test, cases in sorted(row.tests.items()))
    return f"| {row.door} | {row.fault} | {row.expected} | {tests} | {sum(row.tests.values())} |"


def table(rows: Iterable[Row]) -> str:
    """What stands between `BEGIN` and `END`."""
    rows = list(rows)
    cases = sum(sum(row.tests.values()) for row in rows)
    return "\n".join(["", f"{len(rows)} rows, {cases} cases.", "", *HEAD, *map(line, rows), ""])


def replaced(page: str, rows: Iterable[Row]) -> str:
    """Return the page with a new table."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin
    assert end
    return head + begin + "\n" + table(rows) + "\n" + end + tail
