"""What the subcommands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

__all__ = [
    "ConfigArgument",
    "JsonOption",
    "SetOption",
    "open_model",
    "print_json",
    "print_table",
    "quiet_transformers",
]

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, a shipped config's name, or a trained directory.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as tower.select_layer=-1.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(data: Any) -> None:
    """Plain data as indented JSON on stdout; what of a file name is no UTF-8 stands as ``\\udcNN``."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    typer.echo(text.encode("utf-8", "backslashreplace").decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A rich table on a terminal; plain columns, two spaces apart, when piped."""
    if sys.stdout is None or not sys.stdout.isatty():
        lines = [columns, *[["; ".join(str(cell).splitlines()) for cell in row] for row in rows]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        typer.echo(title)
        for line in lines:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console().print(table)


def open_model(config: str, overrides: list[str] | None) -> Any:
    """The model of a config, opened without the libraries' progress bars."""
    from vita_core.config.schema import load_config

    settings = load_config(config, overrides or ())
    quiet_transformers()
    from vita_core.models.building import build_model

    return build_model(settings)


def quiet_transformers() -> None:
    """No progress bars and warnings of transformers between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
