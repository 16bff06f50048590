"""The table of commands: the built-in ones, and those of plugins (entry-point group ``vita.commands``).

A command's module is imported when the command is run, not before.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from vita_core import interrupts
from vita_core.cli.exits import NO_READER
from vita_core.errors import ConfigError, PluginError
from vita_core.plugins.installed import COMMANDS_GROUP, EntryPoint, installed

__all__ = ["COMMANDS_GROUP", "CommandGroup", "drop_output"]

BUILTIN = {
    "towers": ("towers:towers", "List the vision towers and the packages they come from."),
    "reductions": ("parts:reductions", "List the reductions and the packages they come from."),
    "projectors": ("parts:projectors", "List the projectors and the packages they come from."),
    "plugins": ("plugins:plugins", "List the plugins, with the error of each that failed."),
    "plan": ("plan:plan", "Show shapes, tokens, parameters and cost. Reads no weights."),
    "encode": ("encode:encode", "Write the tower's features of pictures to a file."),
    "run": ("run:run", "Answer a question about pictures or a video."),
    "demo": ("demo:demo", "Answer a question with the flags of VITA's demo script."),
    "migrate": ("migrate:migrate", "Write a YAML config for a VITA or LLaVA checkpoint."),
    "export": ("export:export", "Write a model in the layout of its VITA checkpoint."),
    "train": ("train:train", "Train the projector, or the parts that stages name."),
    "eval": ("evaluate:evaluate", "Count how many pictures the model names correctly."),
    "compare": ("compare:compare", "Train and score configs side by side, and say which to take."),
    "sweep": ("compare:sweep", "Compare the values of a key of one config."),
    "probe": ("probe:probe", "Score the features of towers on labelled pictures."),
    "data": ("data:app", "Check data sets, and show what a model is trained on."),
    "check": ("check:check", "Run the conformance tests on a tower or another part."),
    "new-tower": ("new_tower:new_tower", "Write a plugin package with a small working tower."),
    "new-reduction": ("new_part:new_reduction", "Write a plugin package with a small working reduction."),
    "new-projector": ("new_part:new_projector", "Write a plugin package with a small working projector."),
    "assets": ("assets:assets", "Download and convert the weights of the quickstart."),
    "doctor": ("doctor:doctor", "Examine this installation, and say how to cure faults."),
    "verify": ("verify:verify", "Check the files of a model against its hashes."),
}
"""Name -> ``"module:function"`` in this package, and the line in ``vita --help``, which imports none of the modules."""

MAY_BE_EMPTY = ("-q", "--question", "--system")
"""Options whose text may have no character."""


def drop_output(stream: TextIO | None = None) -> None:
    """Discard the buffered output of stdout or another stream. Python would write it again at exit, and exit with 120."""
    stream = stream or sys.stdout
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class CommandGroup(TyperGroup):
    """The built-in commands, then those of plugins. A plugin cannot replace a built-in command."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. If nobody reads its output any more, exit with `NO_READER`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            drop_output()
            raise typer.Exit(NO_READER) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands. Imports no command and no plugin."""
        names = {point.name for point in installed(COMMANDS_GROUP)[0]}
        return [*BUILTIN, *sorted(names - {*BUILTIN})]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command called `cmd_name`, not imported yet, or None if there is none."""
        if cmd_name in BUILTIN:
            return _builtin(cmd_name)
        points = [point for point in installed(COMMANDS_GROUP)[0] if point.name == cmd_name]
        return _plugins(cmd_name, points) if points else None


class _Unopened(TyperCommand):
    """A command's name and summary, which ``vita --help`` shows. `opened` imports the command."""

    def __init__(self, name: str, opened: Callable[[], Any], summary: str) -> None:
        super().__init__(name, short_help=summary)
        self.opened = opened

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and parse its own options. Raises PluginError or ConfigError."""
        if info_name in BUILTIN:
            _refuse_empty(args)
        return self.opened().make_context(info_name, args, parent=parent, **extra)


def _refuse_empty(args: list[str]) -> None:
    """Raise ConfigError for an argument without a character: as a path it would be the working directory."""
    for before, argument in zip(["", *args], args, strict=False):
        option, equals, value = argument.partition("=")
        joined = bool(equals) and not value and option.startswith("--")
        name = option if joined else before if before.startswith("-") else "an argument"
        if (joined or not argument) and name not in MAY_BE_EMPTY:
            raise ConfigError(f"{name}: empty. Try: a value; a variable of your shell may not be set")


def _builtin(name: str) -> _Unopened:
    place, summary = BUILTIN[name]

    def opened() -> Any:
        module, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(f"vita_core.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):  # a command with sub-commands
            return typer.main.get_command(found)
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(name)(found)
        return typer.main.get_command(app)

    return _Unopened(name, opened, summary)


def _plugins(name: str, points: list[EntryPoint]) -> _Unopened:
    """Return a plugin's command, not imported yet."""
    owners = " and ".join(str(point.owner) for point in points)
    return _Unopened(name, functools.partial(_opened, name, points), f"From {owners}.")


def _opened(name: str, points: list[EntryPoint]) -> Any:
    """Import the plugins' command called `name`. Raises PluginError if it is blocked, not unique, or fails to load."""
    from vita_core.plugins.discovery import describe, remedy
    from vita_core.plugins.registry import selection

    chosen = selection()
    allowed = [point for point in points if not chosen.blocked(point.owner)]
    owners = [point.owner for point in allowed or points]
    who = " and ".join(f"plugin {owner.plugin} of {owner}" for owner in owners)
    if not allowed:
        raise PluginError(
            f"command {name!r} is blocked: {who} is {chosen.blocked(owners[0])}. Try: change that variable or option"
        )
    if len(allowed) > 1:
        raise PluginError(
            f"command {name!r} comes from more than one plugin: {who}. Try: block one with `--no-plugin {owners[0].selector}`"
        )
    (point,), (owner,) = allowed, owners
    try:
        app = point.load()
        if not isinstance(app, typer.Typer):
            raise PluginError(
                f"{point.value} is a {type(app).__name__}, but a command is a typer.Typer app. "
                "Try: correct the entry point in the plugin"
            )
        return typer.main.get_command(app)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() and the like at import are not Exceptions
        interrupts.raise_if_asked()
        raise PluginError(
            f"command {name!r}, {who}: {describe(error)}. Try: {remedy(error, owner, point.value)}"
        ) from error
