"""What the documents say to type works: every code block is parsed, every name, file and link they point to exists."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from conftest import REPOSITORY
from documents import DOCUMENTS, Block, blocks, blocks_of, prose, shell_commands, spans
from messages import problems
from packaging.requirements import Requirement

from vita_core import load_config
from vita_core.benchmarking.arguments import model_arguments
from vita_core.cli import app
from vita_core.cli.commands import BUILTIN, COMMANDS_GROUP

LANGUAGES = {"bash", "yaml", "python", "toml", "json", "diff", "text"}
"""``text`` is output and drawings; everything else is checked here or run by test_docs_python.py."""
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
UNCHECKED = {"cd", "git", "source", "apt-get", "twine"}
"""Programs whose arguments a page may show and no test reads."""


def command(line: list[str]) -> str:
    return " ".join(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_is_fenced_and_says_its_language(document: Path) -> None:
    assert {block.language for block in blocks_of(document)} <= LANGUAGES
    assert not re.findall(r"^ *(?:```|~~~).*", prose(document), re.MULTILINE), "a fence that nothing closes"
    indented = re.findall(
        r"\n\n    (?![ \-*]|\d+\.).*", re.sub(r"^::: .*\n(?: {4}.*\n)*", "", prose(document), flags=re.M)
    )
    assert not indented, "code by indentation alone; fence it"


# shell ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_every_shell_command_exists(block: Block) -> None:
    lines = shell_commands(block.text)
    assert lines
    for line in lines:
        check = {
            "vita": parse_vita,
            "make": check_make,
            "pip": check_pip,
            "python": check_python,
            "pytest": check_pytest,
            "torchrun": check_torchrun,
            "lmms-eval": check_lmms_eval,
        }
        program = line[0]
        assert program in check.keys() | UNCHECKED, f"{program}: say in test_docs.py how to check it"
        if program in check:
            check[program](line[1:])


def parse_vita(words: list[str]) -> None:
    root = typer.main.get_command(app)
    with root.make_context("vita", list(words), resilient_parsing=True) as outer:
        rest = [*outer._protected_args, *outer.args]
        if not rest:
            assert set(words) <= {"--help", "--version"}, f"{words}: no command"
            return
        found = root.get_command(outer, rest[0])
        assert found is not None, f"vita {command(words)}: no such command"
        inner = found.make_context(rest[0], rest[1:], parent=outer, resilient_parsing="--help" in rest)
        nested = [*inner._protected_args, *inner.args] if hasattr(inner.command, "commands") else []
        if nested:
            assert nested[0] in inner.command.commands, f"vita {command(words)}: no such command"
            inner.command.commands[nested[0]].make_context(nested[0], nested[1:], parent=inner)


def check_make(words: list[str]) -> None:
    variables = [word.partition("=")[0] for word in words if "=" in word]
    assert {word for word in words if "=" not in word} <= TARGETS
    assert all(f"$({name})" in (REPOSITORY / "Makefile").read_text() for name in variables)


def check_pip(words: list[str]) -> None:
    if words[0] != "install":
        return
    wanted = [word for word in words[1:] if word.partition("[")[0] == "vita-core"]
    assert all(Requirement(word).extras <= {*PROJECT["optional-dependencies"]} for word in wanted)


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
        return
    source = (REPOSITORY / words[0]).read_text()
    if "clock_option(parser)" in source:
        source += (REPOSITORY / "benchmarks" / "common.py").read_text()
    assert all(f'"{word}"' in source for word in words[1:] if word.startswith("--"))


def check_torchrun(words: list[str]) -> None:
    at = words.index("-m")
    if words[at + 1] == "lmms_eval":
        check_lmms_eval(["eval", *words[at + 2 :]])
        return
    assert words[at + 1] == "vita_core.training", "the programs of several processes are this one and lmms-eval"
    parse_vita(["train", *words[at + 2 :]])


def check_lmms_eval(words: list[str]) -> None:
    """The model is ours, and it knows the arguments."""
    options = dict(zip(words[1::2], words[2::2], strict=False))
    assert (words[0], options["--model"]) == ("eval", "vita")
    stated = dict(word.split("=", 1) for word in options["--model_args"].split(","))
    model_arguments(stated, options.get("--batch_size", 1))


def check_pytest(words: list[str]) -> None:
    """Options that this project brings, and the files named; a new package's own tests are named ``tests``."""
    ours = (REPOSITORY / "vita_core" / "pytest_plugin.py").read_text()
    assert all(f'"{word}"' in ours for word in words if word.startswith("--vita"))
    assert all((REPOSITORY / word).exists() for word in words if word.startswith("tests"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_named_in_prose_has_its_options(document: Path) -> None:
    """``vita encode --timings`` cannot be parsed whole; its parts are known."""
    root = typer.main.get_command(app)
    context = typer.Context(root)
    shared = {option for parameter in root.params for option in parameter.opts}
    for span in spans(document):
        words = span.split()
        if words[0] == "make" and len(words) > 1 and re.fullmatch("[a-z-]+", words[1]):
            assert words[1] in TARGETS, span
        if words[0] != "vita" or len(words) == 1 or words[1] == "...":
            continue
        name = next((word for word in words[1:] if re.fullmatch("[a-z][a-z-]*", word)), None)
        known = {*shared, "--help"}
        if name is not None and not (words[1] in shared and words[1] not in ("--strict-plugins", "--version")):
            assert name in BUILTIN, span
            opened = root.get_command(context, name).opened()
            commands = [opened, *getattr(opened, "commands", {}).values()]
            known |= {option for each in commands for part in each.params for option in part.opts}
        assert {word for word in words if word.startswith("-")} <= known, span


# data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_config_is_valid(block: Block, tmp_path: Path) -> None:
    """A whole config or some of its sections, through the loader; what it may extend is there, the page's own files too."""
    shutil.copytree(REPOSITORY / "configs", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("quickstart"))
    for other in blocks_of(block.document, "yaml"):
        if other.title:
            (tmp_path / other.title).write_text(other.text)
    file = tmp_path / "block.yaml"
    file.write_text(block.text)
    sections = yaml.safe_load(block.text)
    missing = [] if "extends" in sections else [name for name in ("tower", "llm") if name not in sections]
    load_config(file, [f"{name}.weights=./{name}" for name in missing])


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_every_toml_block_is_part_of_a_project(block: Block) -> None:
    data = tomllib.loads(block.text)
    assert {*data} <= {"project", "build-system", "tool"}
    assert {*data.get("project", {}).get("entry-points", {})} <= {"vita", COMMANDS_GROUP}


def test_every_json_block_is_json() -> None:
    for block in blocks("json"):
        json.loads(block.text)


# names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_of_ours_exists(document: Path) -> None:
    """`vita_core.room.module.function` in back-quotes, and ``from vita_core import`` in a block that is not run."""
    for span in spans(document):
        if re.fullmatch(r"vita_(core|plugins)(\.\w+)+(\(\))?", span) and not span.endswith(".py"):
            pkgutil.resolve_name(span.removesuffix("()"))
    for block in blocks_of(document, "diff"):
        added = "\n".join(line[1:] for line in block.text.splitlines() if line.startswith("+"))
        for node in ast.parse(added).body:
            assert isinstance(node, ast.ImportFrom)
            assert all(hasattr(importlib.import_module(node.module or ""), alias.name) for alias in node.names)


TOP = {path.name for path in REPOSITORY.iterdir() if path.is_dir()} - {"site"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_of_ours_exists(document: Path) -> None:
    """Paths in back-quotes that begin with a folder of the repository; a word in capitals stands for any name."""
    for span in spans(document):
        if re.fullmatch(r"[\w.-]+(/[\w.*-]+)+/?", span) and span.partition("/")[0] in TOP:
            pattern = re.sub(r"\b[A-Z]{2,}\b|(?<=_)[A-Z]{2,}", "*", span.rstrip("/"))
            assert any(REPOSITORY.glob(pattern)), span


def anchors(document: Path) -> set[str]:
    """Of a document's headings, as code hosts and the documentation site make them."""
    titles = re.findall(r"^#+ (.*)", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_error_message_shown_has_its_form() -> None:
    lines = [line for block in blocks("text") for line in block.text.splitlines() if "Try: " in line]
    assert lines
    assert not [problem for line in lines for problem in problems(line)]


def test_the_page_of_reliability_has_every_row() -> None:
    """`tests/test_reliability.py` also compares the numbers of cases, in a run of all tests."""
    page = (REPOSITORY / "docs" / "reliability.md").read_text()
    for file in (REPOSITORY / "tests").rglob("test_*.py"):
        marks = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        for call in (node for node in marks if ast.unparse(node.func) == "pytest.mark.reliability"):
            texts = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
            if None in {*texts, *texts.values()}:  # a test of the mark itself, or of texts that a table gives
                continue
            row = f"| {texts['door']} | {texts['fault']} | {texts['expected']} | "
            assert row in page, "Try: `make docs`"
            assert f"`{file.relative_to(REPOSITORY / 'tests')}`" in page.partition(row)[2].partition("\n")[0], file
