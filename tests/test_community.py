"""The issue forms and the citation are what a code host reads, and name commands that exist."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from documents import SPAN

from vita_core.cli.commands import BUILTIN

FORMS = sorted(path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


@pytest.mark.parametrize("file", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one(file: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(file.read_text())
    assert {*form} == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in form["body"]} <= FIELDS
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    for words in (span.split() for span in SPAN.findall(file.read_text())):
        assert words[0] != "vita" or words[1] == "--version" or words[1] in BUILTIN, words
        assert "/" not in words[0] or (REPOSITORY / words[0]).exists(), words


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= {*citation}
