"""The rows of docs/reliability.md: the marks `reliability` of the tests, one row for each door and kind of fault.

A pytest plugin. It collects `@pytest.mark.reliability(door=..., fault=..., expected=...)` from every test, before any is
deselected, and counts the values of parametrised tests. `make docs` writes the rows; a test compares them. The plugin also
keeps what `make stress` counts, in docs/stress.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
FIELDS = ("door", "fault", "expected")


@dataclass
class Row:
    """One door and kind of fault. `tests` maps each test, ``file::name``, to the number of its cases."""

    door: str
    fault: str
    expected: str
    tests: dict[str, int]


ROWS = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-rows", metavar="FILE", help="write the rows of docs/reliability.md as JSON")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rows = rows_of(items)
    config.stash[ROWS] = rows
    if file := config.getoption("--reliability-rows"):
        Path(file).write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


@pytest.fixture(scope="session")
def stress_record() -> Iterator[Callable[..., None]]:
    """A function that keeps, for each door, what a long run tried; at the end docs/stress.json has the numbers."""
    doors: dict[str, dict[str, Any]] = {}

    def keep(door: str, **numbers: Any) -> None:
        doors[door] = numbers
        print(f"\n{door}: {json.dumps(numbers)}")

    yield keep
    if doors:
        text = json.dumps({"date": f"{date.today()}", "doors": doors}, indent=1)
        (REPOSITORY / "docs" / "stress.json").write_text(text + "\n", encoding="utf-8")


def rows_of(items: Iterable[pytest.Item]) -> list[Row]:
    """The rows of these tests, sorted by door and fault. Raises UsageError for a mark of another form."""
    found: dict[tuple[str, str], Row] = {}
    for item in items:
        test = f"{item.path.relative_to(REPOSITORY).as_posix()}::{getattr(item, 'originalname', item.name)}"
        for mark in item.iter_markers("reliability"):
            texts = [mark.kwargs.get(name) for name in FIELDS]
            wrong = mark.args or set(mark.kwargs) != set(FIELDS)
            if wrong or not all(isinstance(text, str) and text and not set(text) & set("|\n") for text in texts):
                raise pytest.UsageError(
                    f"{item.nodeid}: reliability(door=..., fault=..., expected=...), texts without `|`"
                )
            door, fault, expected = map(str, texts)
            row = found.setdefault((door, fault), Row(door, fault, expected, {}))
            if row.expected != expected:
                raise pytest.UsageError(
                    f"{item.nodeid}: {door}, {fault}: two rows expect {expected!r} and {row.expected!r}"
                )
            row.tests[test] = row.tests.get(test, 0) + 1
    return [found[key] for key in sorted(found)]


def collected() -> list[Row]:
    """The rows of all tests, by collecting the files that have the mark in a process of its own."""
    files = [
        file for file in sorted((REPOSITORY / "tests").rglob("test_*.py")) if "mark.reliability" in file.read_text()
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        options = ["--collect-only", "-qq", "-p", "no:cacheprovider", f"--reliability-rows={rows}"]
        line = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if not rows.is_file() or "errors during collection" in done.stdout:
            raise SystemExit(f"the tests cannot be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return [Row(**row) for row in json.loads(rows.read_text(encoding="utf-8"))]
