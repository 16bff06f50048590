"""Error messages as the tests really see them: each has the one form, and the raise sites that no test reaches are listed.

A pytest plugin. Every process of the run appends what was raised to a file; at the end of a whole run the first process
reads them all. The form: ``what is wrong: the value. Cause if known. Try: what to do`` (CONTRIBUTING.md).
"""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
MOST_UNREACHED = 40
"""This number only ever gets smaller: whoever adds an error tests it."""
MALFORMED, UNREACHED = pytest.StashKey[list[str]](), pytest.StashKey[list[str]]()
FOLDER = "VITA_TEST_MESSAGES"
KINDS = ("VitaError", "ConfigError", "PluginError", "CheckpointError", "PictureError", "AssetError")
QUOTED = re.compile(r"`([^`]+)`")
VALUE = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
KEY = re.compile(r"(?:--set )?([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)(?:=|: ).*|([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+)")


@dataclass(frozen=True)
class Site:
    """One ``raise`` of an error of the class `kind`: its lines, the function it stands in, and a pattern of what it says."""

    kind: str
    file: str
    function: str
    lines: range
    pattern: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function}: {re.sub(r'[^A-Za-z ]+', ' ', self.pattern).strip()[:60].strip()}"


@cache
def sites() -> list[Site]:
    """Every place in the packages that raises one of our errors."""
    files = sorted([*(REPOSITORY / "vita_core").rglob("*.py"), *(REPOSITORY / "vita_plugins").rglob("*.py")])
    return [site for file in files for site in _sites(file)]


def _sites(file: Path) -> Iterator[Site]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in KINDS:
            holding = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or f.lineno)]
            function = max(holding, key=lambda f: f.lineno).name if holding else "module"
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            yield Site(name, file.relative_to(REPOSITORY).as_posix(), function, lines, _pattern(call.args[0]))


def _pattern(message: ast.expr) -> str:
    """A regular expression of what a message says; empty where only running it would tell."""
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        return re.escape(message.value)
    if isinstance(message, ast.JoinedStr):
        return "".join(_pattern(part) if isinstance(part, ast.Constant) else ".*" for part in message.values)
    return ""


def problems(message: str) -> list[str]:
    """What is wrong with the form of a message, a line each."""
    found = []
    for line in message.splitlines():
        if line.startswith("  "):  # YAML to copy
            continue
        own = VALUE.sub("", line)  # a stranger's value or key may hold one too
        if own.count("Try: ") != 1:
            found.append(f"says `Try: ` {own.count('Try: ')} times: {line}")
            continue
        cure = line.rpartition("Try: ")[2]
        if not cure.strip() or cure.endswith("."):
            found.append(f"`Try: ` is followed by nothing, or by a sentence that ends with a period: {line}")
        found += [f"{told}: {line}" for text in QUOTED.findall(cure) if (told := _misquoted(text))]
    return found


def _misquoted(text: str) -> str | None:
    """Why a back-quoted text is no command line that the CLI parses, or no key that the schema has."""
    if text.startswith("vita "):
        return _unparsed(text.split()[1:])
    key = KEY.fullmatch(text)
    if key is None or text.startswith(("http", "pip ", "uv ")):
        return None
    return None if _is_key((key[1] or key[2]).split(".")) else f"`{text}` names no key of the schema"


def _unparsed(words: list[str]) -> str | None:
    import typer

    from vita_core.cli import app

    group = typer.main.get_command(app)
    try:
        _, command, rest = group.resolve_command(typer.Context(group), words)
        command.make_context(command.name, [word.strip("\"'") for word in rest])
    except typer.Exit:  # --help
        return None
    except Exception as error:
        return f"`vita {' '.join(words)}` is not parsed ({error})"
    return None


def _is_key(parts: list[str]) -> bool:
    """Whether a dotted key is the schema's, from the top or from within one of its sections, or an option of a built-in type."""
    from vita_core import config
    from vita_core.config.validation import Section

    modules = [import_module(f"{config.__name__}.{found.name}") for found in pkgutil.iter_modules(config.__path__)]
    values = [value for module in modules for value in vars(module).values()]
    sections = [value for value in values if isinstance(value, type) and issubclass(value, Section)]
    names = {name for section in sections for name in section.model_fields} | {"extends"}
    return parts[0] in names and (len(parts) == 1 or parts[1] in names or parts[0] == "options" or "options" in parts)


def record(message: str, file: str = "", line: int = 0) -> None:
    """Append one message to this process's file, where a whole run collects them."""
    if folder := os.environ.get(FOLDER):
        row = json.dumps({"message": message, "file": file, "line": line})
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as out:
            out.write(row + "\n")


def record_stderr(stderr: str) -> None:
    """Record what a command of ours reported."""
    for line in stderr.splitlines():
        if line.startswith("error: "):
            record(line.removeprefix("error: "))


def pytest_configure(config: pytest.Config) -> None:
    """Record every error of ours that is made in this process."""
    from vita_core.errors import VitaError

    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="vita-messages-")

    made = VitaError.__init__

    def recorded(self: VitaError, *args: Any) -> None:
        made(self, *args)
        frame = sys._getframe(1)
        record(str(self), frame.f_code.co_filename, frame.f_lineno)

    VitaError.__init__ = recorded  # type: ignore[method-assign]  # this is the recorder


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what was recorded."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER, ""), ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After a run: fail for a message of another form; after a whole run, for more unreached raise sites than before."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    files = Path(os.environ[FOLDER]).glob("*.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    reached, malformed = _judged(rows)
    config.stash[MALFORMED] = malformed
    whole = (
        config.args == config.getini("testpaths")
        and not config.option.keyword
        and config.option.markexpr == "not extras and not stress"
    )
    config.stash[UNREACHED] = sorted({str(site) for site in sites()} - reached) if whole else []
    wrong = malformed or len(config.stash[UNREACHED]) > MOST_UNREACHED
    if wrong and session.exitstatus == 0:  # type: ignore[attr-defined]  # pytest sets it, but does not type it
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _judged(rows: list[dict[str, Any]]) -> tuple[set[str], list[str]]:
    """The sites that were reached, and what is wrong with the messages of our own."""
    reached, malformed = set(), []
    for row in rows:
        for site in sites():
            own = row["file"].endswith(site.file) and row["line"] in site.lines
            if own or (not row["file"] and site.pattern and re.fullmatch(site.pattern, row["message"], re.DOTALL)):
                reached.add(str(site))
                malformed += problems(row["message"])
                break
    return reached, sorted(set(malformed))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the messages of another form, and of a whole run the raise sites that no test reaches."""
    unreached = config.stash.get(UNREACHED, [])
    title = f"{len(unreached)} of {len(sites())} raise sites are reached by no test (at most {MOST_UNREACHED} may be)"
    for heading, lines in (
        ("error messages that do not have the form of CONTRIBUTING.md", config.stash.get(MALFORMED, [])),
        (title, unreached),
    ):
        if lines:
            terminalreporter.section(heading)
            for line in lines:
                terminalreporter.line(line)
