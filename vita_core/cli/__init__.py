"""The ``vita`` command: one small file a subcommand; nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vita_core.cli.assets import assets
from vita_core.cli.demo import demo
from vita_core.cli.encode import encode
from vita_core.cli.evaluate import evaluate
from vita_core.cli.migrate import migrate
from vita_core.cli.plan import plan
from vita_core.cli.plugins import plugins
from vita_core.cli.run import run
from vita_core.cli.towers import towers
from vita_core.cli.train import train
from vita_core.errors import PluginError, VitaError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Vision towers of multimodal language models, as plugins. CONFIG is a YAML file, the name of a shipped one "
    "(such as quickstart), or a directory that `vita train` wrote.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(towers)
app.command()(plugins)
app.command()(plan)
app.command()(encode)
app.command()(run)
app.command()(demo)
app.command()(migrate)
app.command()(train)
app.command("eval")(evaluate)
app.command()(assets)


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
    if no_plugin or plugin:
        from vita_core.registry import use_plugins

        use_plugins(block=no_plugin or (), modules=plugin or ())
    if strict_plugins:
        from vita_core.registry import registry

        failed = [p for p in registry().plugins if p.status == "failed"]
        if failed:
            raise PluginError(
                "\n".join(f"plugin {p.owner.plugin} of {p.owner}: {p.reason}; {p.remedy}" for p in failed)
            )


def main() -> None:
    """Run the command; a user's mistake is told in its own words on stderr, and the exit code is 2."""
    try:
        app()
    except VitaError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(2)
