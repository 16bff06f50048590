"""The commands by name, each imported when it is typed: the built-in ones, and plugins' (entry-point group ``vita.commands``)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from vita_core.errors import PluginError
from vita_core.plugins.installed import EntryPoint, installed

__all__ = ["COMMANDS_GROUP", "CommandGroup"]

COMMANDS_GROUP = "vita.commands"
BUILTIN = {
    "towers": "towers:towers",
    "plugins": "plugins:plugins",
    "plan": "plan:plan",
    "encode": "encode:encode",
    "run": "run:run",
    "demo": "demo:demo",
    "migrate": "migrate:migrate",
    "export": "export:export",
    "train": "train:train",
    "eval": "evaluate:evaluate",
    "check": "check:check",
    "new-tower": "new_tower:new_tower",
    "assets": "assets:assets",
}
"""Name -> ``"module:function"`` in this package."""


class CommandGroup(TyperGroup):
    """The built-in commands, then those of plugins. A built-in name is never given away."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command's name; reads metadata only."""
        names = {point.name for point in installed(COMMANDS_GROUP)[0]}
        return [*BUILTIN, *sorted(names - {*BUILTIN})]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A built-in command, or a stand-in for a plugin's."""
        if cmd_name in BUILTIN:
            return _builtin(cmd_name)
        points = [point for point in installed(COMMANDS_GROUP)[0] if point.name == cmd_name]
        return _plugins(cmd_name, points) if points else None


class _Unopened(TyperCommand):
    """A command of which ``vita --help`` needs a line alone: typer would read the signature of each, typed or not."""

    def __init__(
        self, name: str, opened: Callable[[], Any], *, text: str | None = None, line: str | None = None
    ) -> None:
        super().__init__(name, help=text, short_help=line)
        self.opened = opened

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The real command's context, so that its own options are parsed. Raises PluginError."""
        return self.opened().make_context(info_name, args, parent=parent, **extra)


def _builtin(name: str) -> _Unopened:
    module, _, attribute = BUILTIN[name].partition(":")
    function = getattr(importlib.import_module(f"vita_core.cli.{module}"), attribute)

    def opened() -> Any:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(name)(function)
        return typer.main.get_command(app)

    return _Unopened(name, opened, text=function.__doc__)


def _plugins(name: str, points: list[EntryPoint]) -> _Unopened:
    """A plugin's command, imported when it is typed."""
    owners = " and ".join(str(point.owner) for point in points)
    return _Unopened(name, functools.partial(_opened, name, points), line=f"From {owners}.")


def _opened(name: str, points: list[EntryPoint]) -> Any:
    """The one command called `name` among those not blocked, imported. Raises PluginError naming its plugin."""
    from vita_core.plugins.discovery import describe, remedy
    from vita_core.plugins.registry import selection

    chosen = selection()
    allowed = [point for point in points if not chosen.blocked(point.owner)]
    if len(allowed) != 1:
        owners = [point.owner for point in allowed or points]
        who = " and ".join(f"plugin {owner.plugin} of {owner}" for owner in owners)
        if not allowed:
            raise PluginError(f"command {name!r} of {who} is {chosen.blocked(owners[0])}")
        raise PluginError(f"command {name!r} is brought by {who}; block one with --no-plugin {owners[0].selector}")
    point, owner = allowed[0], allowed[0].owner
    try:
        app = point.load()
        if not isinstance(app, typer.Typer):
            raise PluginError(f"{point.value} is a {type(app).__name__}; a command is a typer.Typer app")
        return typer.main.get_command(app)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as in plugins.load_plugin: sys.exit() at import is no Exception
        told = f"{describe(error)}; {remedy(error, owner, point.value)}"
        raise PluginError(f"command {name!r}, plugin {owner.plugin} of {owner}: {told}") from error
