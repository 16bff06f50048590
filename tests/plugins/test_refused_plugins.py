"""Plugins that break a rule, each with the error that it gets: as a module, as a spec, and as a command."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vita_core import ProjectorSpec, ReductionSpec, hookimpl
from vita_core.cli import app
from vita_core.cli.commands import _opened
from vita_core.errors import PluginError
from vita_core.plugins.discovery import load_plugin
from vita_core.plugins.installed import EntryPoint, Owner
from vita_core.plugins.registry import use_plugins

OWNER = Owner("mine", "vita-mine", "1.0")


def hook(result: Any) -> Callable[[], Any]:
    @hookimpl
    def vita_towers() -> Any:
        return result

    return vita_towers


@hookimpl
def with_an_argument(callback: Any) -> list[Any]:
    return [callback]


PLUGINS: dict[str, tuple[dict[str, Any], str]] = {
    "no version": ({}, "`vita_api` is missing"),
    "a misspelled hook": (
        {"vita_api": 1, "vita_tower": lambda: []},
        "unknown hook: vita_tower. Did you mean 'vita_towers'",
    ),
    "an unmarked hook": ({"vita_api": 1, "vita_towers": lambda: []}, "hook without the `@hookimpl` decorator"),
    "an argument": ({"vita_api": 1, "vita_towers": with_an_argument}, "callback"),
    "no list": ({"vita_api": 1, "vita_towers": hook(5)}, "vita_towers did not return a list: a int"),
    "no spec": ({"vita_api": 1, "vita_towers": hook([5])}, "vita_towers returned a wrong value: 5"),
}


@pytest.mark.parametrize(("content", "message"), PLUGINS.values(), ids=list(PLUGINS))
def test_a_module_that_breaks_a_rule_is_not_loaded(content: dict[str, Any], message: str) -> None:
    plugin = load_plugin(OWNER, "mine", lambda: types.SimpleNamespace(**content))
    assert plugin.status == "failed"
    assert plugin.specs == ()
    assert message in plugin.reason


def test_specs_of_another_form_are_refused() -> None:
    with pytest.raises(PluginError, match=r"pattern is not a regular expression: '\('"):
        ProjectorSpec("p", "s", "a:b", lambda *_: 0, pattern="(")
    with pytest.raises(PluginError, match="ReductionSpec: wrong name: 'a/b'"):
        ReductionSpec(name="a/b", summary="s", factory="a:b", sizes=lambda sizes, _: sizes, paper="none")


def point(value: str, distribution: str = "vita-mine") -> EntryPoint:
    return EntryPoint(Owner("mine", distribution, "1.0"), value)


COMMANDS = {
    "no app": ([point("json:dumps")], "json:dumps is a function, but a command is a typer.Typer app"),
    "no module": ([point("nothing_of_this_name:app")], "command 'mine', plugin mine of vita-mine 1.0: ModuleNotFoundError"),
    "two": (
        [point("json:dumps"), point("json:dumps", "vita-theirs")],
        "command 'mine' comes from more than one plugin: .*vita-mine.*vita-theirs",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("points", "message"), COMMANDS.values(), ids=list(COMMANDS))
def test_a_command_that_cannot_be_opened(points: list[EntryPoint], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        _opened("mine", points)


@pytest.mark.usefixtures("clean_registry")
def test_a_blocked_command() -> None:
    use_plugins(block=["vita-mine:mine"])
    with pytest.raises(PluginError, match=r"command .mine. is blocked: plugin mine of .* is named in"):
        _opened("mine", [point("json:dumps")])


def test_a_command_that_is_an_app_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_command.py").write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef go(): print('went')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = _opened("mine", [point("my_command:app")])
    assert isinstance(command, typer.core.TyperCommand)
    assert command.name == "go"


@pytest.mark.usefixtures("clean_registry")
def test_strict_plugins_end_with_what_failed() -> None:
    done = CliRunner().invoke(app, ["--plugin", "nothing_of_this_name", "--strict-plugins", "towers"])
    assert isinstance(done.exception, PluginError)
    assert "nothing_of_this_name" in str(done.exception)
