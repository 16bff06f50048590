"""The ``vita`` command: one small file a subcommand; nothing heavy is imported before it is needed."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

from vita_core import interrupts
from vita_core.cli.commands import CommandGroup, drop_output
from vita_core.cli.exits import BUG, MISTAKE
from vita_core.errors import PluginError, VitaError, printable
from vita_core.masking import masked, masked_logs

__all__ = ["app", "main"]

app = typer.Typer(
    cls=CommandGroup,
    help="Choose, try, train and compare the vision tower of a multimodal language model. CONFIG is a YAML file, the name "
    "of a shipped config (such as quickstart), or the directory of a trained model or a checkpoint.",
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich to print help would double the start-up
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from vita_core import __version__

        typer.echo(f"vita-core {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    no_plugin: Annotated[
        list[str] | None, typer.Option(help="Do not load this plugin (entry-point name or dist:name).")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", "-p", help="Load this Python module as a plugin.")
    ] = None,
    strict_plugins: Annotated[
        bool,
        typer.Option("--strict-plugins", envvar="VITA_STRICT_PLUGINS", help="Exit with 2 when a plugin fails to load."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Select the plugins to load. ``vita plugins`` lists them."""
    try:
        from vita_core.plugins.registry import registry, selection, use_plugins
    except Exception:
        if context.invoked_subcommand == "doctor":  # it says which library is missing
            return
        raise
    if no_plugin or plugin:
        use_plugins(block=no_plugin or (), modules=plugin or ())
    if selection().modules:  # as for `python -m`, the module may be in the working directory
        sys.path.append(str(Path.cwd()))
    if strict_plugins and (complaints := registry().complaints()):
        raise PluginError(*complaints)


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {printable(masked(' '.join(str(message).splitlines())))}\n"


def _report(message: str) -> None:
    """Print each line of an error message to stderr. Lines of YAML, which are indented, can be copied as they are."""
    try:
        for line in printable(masked(message)).rstrip("\n").split("\n"):
            typer.echo(line if line.startswith("  ") else f"error: {line}", err=True)
    except OSError:  # nobody reads stderr, or its disk is full: the exit code still tells
        drop_output(sys.stderr)


def main() -> None:
    """Run the command line. The exit codes are those of `vita_core.cli.exits`, and errors are printed to stderr."""
    warnings.formatwarning = _one_line
    masked_logs()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not be valid UTF-8
    try:
        app()
    except Exception as error:
        interrupts.raise_if_asked()  # libraries turn an interrupt into errors of their own
        sys.exit(_failed(error))


def _failed(error: Exception) -> int:
    """Report an error of a command. Return the exit code."""
    if isinstance(error, VitaError):
        _report(str(error))
    elif isinstance(error, RuntimeError) and "home directory" in str(error):  # of pathlib, for `~nobody/file`
        _report("a path begins with ~ and a name, and there is no user of that name. Try: the whole path")
    elif isinstance(error, FileNotFoundError) and _homeless():
        _report("the working directory was deleted. Try: `cd` to another one")
    elif isinstance(error, OSError):  # such as a full disk, a name that is too long, a missing permission
        wrong = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _report(f"{wrong}. Try: check the name, the permissions and the space on the disk")
        drop_output()
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported
        _report("out of memory. Try: a smaller model, picture or batch, or another `--device`")
    elif isinstance(error, ImportError) and not str(error.name).startswith("vita_core"):
        _report(f"a library cannot be imported: {str(error).partition(chr(10))[0].rstrip('.')}. Try: `vita doctor`")
    else:
        from vita_core.cli.bugs import report

        if os.environ.get("VITA_DEBUG"):
            typer.echo(masked("".join(traceback.format_exception(error))), err=True)
        _report(report(error, sys.argv[1:]))
        return BUG
    return MISTAKE


def _homeless() -> bool:
    """Return whether the working directory was deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False
