"""``vita --help``: a whole line about each command; the long help of each is shown by the command itself."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import typer
from conftest import vita

from vita_core.cli.commands import BUILTIN

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def listed() -> list[str]:
    done = vita("--help", COLUMNS="80", TERMINAL_WIDTH="80")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", BUILTIN)
def test_the_summary_of_a_command_is_shown_whole(name: str, listed: list[str]) -> None:
    summary = BUILTIN[name][1]
    assert len(summary) <= 60
    assert summary.endswith(".")
    [line] = [line for line in listed if line.split()[:1] == [name]]
    assert line.removeprefix(f"  {name}").strip() == summary


def test_no_line_is_cut_or_wider_than_80_columns(listed: list[str]) -> None:
    assert not [line for line in listed if line.endswith("...") and not line.startswith("Usage:")]
    assert max(map(len, listed)) <= 80


@pytest.mark.parametrize("name", BUILTIN)
def test_the_long_help_is_shown_by_the_command(name: str) -> None:
    import importlib

    module, _, function = BUILTIN[name][0].partition(":")
    found = getattr(importlib.import_module(f"vita_core.cli.{module}"), function)
    nested = found.registered_commands if isinstance(found, typer.Typer) else []
    texts = {(name, command.callback.__name__): inspect.getdoc(command.callback) for command in nested}
    for words, text in (texts or {(name,): inspect.getdoc(found)}).items():
        assert text
        assert " ".join(text.split()) in " ".join(vita(*words, "--help").stdout.split())


def test_help_imports_no_command() -> None:
    names = {place.partition(":")[0] for place, _ in BUILTIN.values()}
    code = (
        "import sys, atexit\nsys.argv = ['vita', '--help']\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from vita_core.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {f"vita_core.cli.{name}" for name in names} & {*done.stderr.split()}
