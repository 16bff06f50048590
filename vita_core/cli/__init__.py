"""The ``vita`` command: one small file a subcommand; nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.commands import CommandGroup
from vita_core.errors import PluginError, VitaError

__all__ = ["app", "main"]

app = typer.Typer(
    cls=CommandGroup,
    help="Vision towers of multimodal language models, as plugins. CONFIG is a YAML file, the name of a shipped one "
    "(such as quickstart), or a directory that `vita train` wrote.",
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich to print help would double the start-up
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vita-core {version('vita-core')}")
        raise typer.Exit


@app.callback()
def options(
    no_plugin: Annotated[
        list[str] | None, typer.Option(help="Do not load this plugin (entry-point name or dist:name).")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", "-p", help="Load this module as a plugin.")] = None,
    strict_plugins: Annotated[
        bool,
        typer.Option("--strict-plugins", envvar="VITA_STRICT_PLUGINS", help="Exit with 2 when a plugin fails to load."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Choose plugins; see ``vita plugins`` for what became of each."""
    from vita_core.registry import registry, selection, use_plugins

    if no_plugin or plugin:
        use_plugins(block=no_plugin or (), modules=plugin or ())
    if selection().modules:  # a module named on the command line may lie in the working directory, as for `python -m`
        sys.path.append(str(Path.cwd()))
    if strict_plugins and (complaints := registry().complaints()):
        raise PluginError("\n".join(complaints))


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"


def main() -> None:
    """Run the command; a user's mistake is told in its own words on stderr, and the exit code is 2."""
    warnings.formatwarning = _one_line
    try:
        app()
    except VitaError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(2)
