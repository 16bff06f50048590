"""What ruff's rules of bandit (`S` in pyproject.toml) leave to us: asserts, and that nothing turns the rules off."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator

import pytest
from conftest import REPOSITORY
from test_rooms import PACKAGES, parsed, sources


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
