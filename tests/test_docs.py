"""What the documents tell to type exists: commands, their options, config keys, files they point to."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from conftest import REPOSITORY

from vita_core.cli import app
from vita_core.config.schema import Config
from vita_core.config.validation import validate

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(document.read_text()) if language in languages]


def command_lines() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = "".join(blocks(document, "", "bash", "console")).replace("\\\n", " ")
        found += [(document.name, line.strip()) for line in text.splitlines() if line.strip().startswith("vita ")]
    return found


@pytest.mark.parametrize(("document", "line"), command_lines())
def test_every_command_told_parses(document: str, line: str) -> None:
    root = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    with root.make_context("vita", words, resilient_parsing=True) as outer:
        rest = [*outer._protected_args, *outer.args]
        assert rest, f"{document}: {line}: no command"
        command = root.get_command(outer, rest[0])
        assert command is not None, f"{document}: {line}: no such command"
        command.make_context(rest[0], rest[1:], parent=outer, resilient_parsing=False)


def config_blocks() -> list[tuple[str, str]]:
    return [(document.name, text) for document in DOCUMENTS for text in blocks(document, "yaml")]


@pytest.mark.parametrize(("document", "text"), config_blocks())
def test_every_config_told_is_valid(document: str, text: str) -> None:
    data = yaml.safe_load(text)
    data.pop("extends", None)
    data.setdefault("llm", {"weights": "./llm"})
    validate(Config, data)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target
