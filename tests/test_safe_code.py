"""What ruff's rules leave to us: asserts, that those of bandit (`S` in pyproject.toml) are on, and why a check is off."""

from __future__ import annotations

import ast
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_rooms import PACKAGES, parsed, sources

FOLDERS = (*PACKAGES, "benchmarks", "docs", "examples", "tests", "tools")


def narrows(test: ast.expr) -> bool:
    """Whether an assert only tells mypy a type: ``x is not None``, or ``isinstance(x, ...)`` or not."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test = test.operand
    if isinstance(test, ast.Compare):
        (operator, *more), (right, *_) = test.ops, test.comparators
        return not more and isinstance(operator, ast.IsNot) and isinstance(right, ast.Constant) and right.value is None
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance"


def asserts() -> Iterator[tuple[str, ast.expr]]:
    for file in sources(REPOSITORY, ".py"):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Assert):
                yield f"{file.relative_to(REPOSITORY)}:{node.lineno}: {ast.unparse(node.test)}", node.test


def test_an_assert_checks_no_input() -> None:
    """`python -O` drops asserts, so that a check of what comes from outside must be a `raise`."""
    found = list(asserts())
    assert len(found) > 20
    assert [place for place, test in found if not narrows(test)] == []


@pytest.mark.parametrize(
    "test", ["x", "x is None", "len(x) == 3", "x in y", "is_path(x)", "x is not y", "1 < x is not None"]
)
def test_other_asserts_are_found(test: str) -> None:
    assert not narrows(ast.parse(test, mode="eval").body)


def test_the_rules_of_bandit_are_on() -> None:
    lint = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert [rule for rule in lint["ignore"] if rule.startswith("S1") or rule == "S"] == ["S101"]
    off = {
        (place, rule)
        for place, rules in lint["per-file-ignores"].items()
        for rule in rules
        if rule.startswith("S") and not rule.startswith("SIM") and place.startswith(PACKAGES)
    }
    assert off == {("vita_core/{probing,training}/**", "S311")}


OFF = re.compile(r"noqa|type: ignore")
REASONED = re.compile(r"# (noqa: [A-Z]+\d+|type: ignore\[[\w, -]+\])  # [\w`].+")
SKIP = re.compile(r"pytest\.(?:mark\.)?(skip|importorskip|skipif|xfail)")
SKIPS = {"skip": 0, "importorskip": 1, "skipif": 1, "xfail": 1}
"""Function of pytest -> where its reason is, unless it has the keyword `reason`."""


def without_a_reason(file: Path) -> Iterator[str]:
    """The lines of a file that turn a check off, or skip a test, and do not say why."""
    with file.open("rb") as opened:
        for token in tokenize.tokenize(opened.readline):
            if token.type == tokenize.COMMENT and OFF.search(token.string) and not REASONED.fullmatch(token.string):
                yield f"{file.name}:{token.start[0]}: {token.string}"
    for node in [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)]:
        call, named = SKIP.fullmatch(ast.unparse(node.func)), [keyword.arg for keyword in node.keywords]
        if call is not None and len(node.args) <= SKIPS[call[1]] and "reason" not in named:
            yield f"{file.name}:{node.lineno}: {ast.unparse(node)}"


def test_what_is_turned_off_has_its_reason_beside_it() -> None:
    every = [file for folder in FOLDERS for file in (REPOSITORY / folder).rglob("*.py")]
    files = [file for file in every if re.search(rf"{OFF.pattern}|{SKIP.pattern}", file.read_text(encoding="utf-8"))]
    assert len(files) > 60
    assert [place for file in files for place in without_a_reason(file)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import os  # noqa: F401",
        "import os  # noqa",
        "x = f()  # type: ignore[misc] # why",
        "x = f()  # type: ignore",
        "x = 1  # noqa: S311 - why",
        "pytest.skip()",
        "pytest.importorskip('timm')",
        "@pytest.mark.skipif(True)\ndef test(): ...",
    ],
)
def test_a_missing_reason_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(f"{line}\n")
    assert len(list(without_a_reason(tmp_path / "x.py"))) == 1
