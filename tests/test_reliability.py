"""docs/reliability.md has the rows of the tests, and the form of the mark is checked."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY
from reliability import ROWS, Row, rows_of

PAGE = REPOSITORY / "docs" / "reliability.md"


def lines() -> list[str]:
    """The rows of the matrix, as the page has them."""
    matrix = PAGE.read_text(encoding="utf-8").partition("<!-- matrix: end -->")[0]
    return [text for text in matrix.splitlines() if re.match(r"\| (?!door|---)", text)]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Row], str]]:
    """The function that writes a line of the table."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(REPOSITORY / "docs")])
    from matrix import line as written

    return written


def test_the_page_has_the_rows_of_the_tests(request: pytest.FixtureRequest, line: Callable[[Row], str]) -> None:
    """In a run of all tests the table is compared as a whole; else the tests of the files that were collected whole."""
    rows, table = request.config.stash[ROWS], lines()
    if request.config.args == request.config.getini("testpaths") and not request.config.option.keyword:
        assert table == [line(row) for row in rows], "Try: `make docs`"
    if any("::" in argument for argument in request.config.args):
        return
    for row in rows:
        (own,) = [text for text in table if text.startswith(f"| {row.door} | {row.fault} |")] or ["missing"]
        for test, cases in row.tests.items():
            part = line(Row(row.door, row.fault, row.expected, {test: cases})).split(" | ")[3]
            assert part in own, f"{row}. Try: `make docs`"


def test_the_matrix_is_as_large_as_it_says() -> None:
    counts = [int(text.rstrip(" |").rpartition(" ")[2]) for text in lines()]
    assert f"{len(counts)} rows, {sum(counts)} cases." in PAGE.read_text(encoding="utf-8")
    assert sum(counts) > 400


@dataclass
class Collected:
    """What pytest knows of a collected test."""

    marks: list[pytest.Mark]
    originalname: str
    name: str = ""
    path: Path = REPOSITORY / "tests" / "test_made.py"
    nodeid: str = "tests/test_made.py::test"

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        return (mark for mark in self.marks if mark.name == name)


def marked(**texts: object) -> pytest.Mark:
    return pytest.mark.reliability(**texts).mark


def test_values_are_counted_and_tests_of_one_fault_joined() -> None:
    first, second = marked(door="d", fault="e", expected="f"), marked(door="a", fault="b", expected="c")
    items = [*[Collected([second], "test_many")] * 3, Collected([first, second, pytest.mark.slow.mark], "test_one")]
    assert rows_of([*items, Collected([], "test_none")]) == [
        Row("a", "b", "c", {"tests/test_made.py::test_many": 3, "tests/test_made.py::test_one": 1}),
        Row("d", "e", "f", {"tests/test_made.py::test_one": 1}),
    ]


@pytest.mark.parametrize(
    "texts",
    [{"fault": "b", "expected": "c"}, {"door": "a|", "fault": "b", "expected": "c"}, {"door": "a", "fault": 5, "expected": "c"}],
)  # fmt: skip
def test_a_mark_of_another_form_is_refused(texts: dict[str, object]) -> None:
    with pytest.raises(pytest.UsageError, match="texts without"):
        rows_of([Collected([marked(**texts)], "test_one")])


def test_one_fault_has_one_expectation() -> None:
    marks = [marked(door="a", fault="b", expected=word) for word in "cd"]
    with pytest.raises(pytest.UsageError, match="two rows expect 'd' and 'c'"):
        rows_of([Collected(marks, "test_one")])
