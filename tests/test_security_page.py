"""docs/security.md: each threat has a mechanism and tests, and these tests exist."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def threats() -> list[list[str]]:
    """The cells of each row of the table of threats."""
    table = PAGE.partition("## Threats")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_each_threat_has_a_mechanism_and_tests() -> None:
    assert len(threats()) > 10
    for threat, mechanism, held in threats():
        assert threat
        assert mechanism
        assert NAMED.fullmatch(held.split(", ")[0]), threat
        assert all(NAMED.fullmatch(name) for name in held.split(", ")), threat


@pytest.mark.parametrize("named", sorted(set(NAMED.findall(PAGE))), ids="::".join)
def test_each_named_test_exists(named: tuple[str, str]) -> None:
    file, name = named
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", ["SECURITY.md", "README.md", "mkdocs.yml"])
def test_it_is_linked(document: str) -> None:
    assert re.search(r"\bsecurity\.md", (REPOSITORY / document).read_text(encoding="utf-8"))
