"""What the subcommands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vita_core.models.model import VisionLanguageModel
    from vita_core.planning.resolution import Resolved

__all__ = [
    "ConfigArgument",
    "DeviceOption",
    "JsonOption",
    "SetOption",
    "TowerOption",
    "WeightsOption",
    "open_model",
    "overridden",
    "place_of",
    "print_json",
    "print_table",
    "quiet_transformers",
]

CONFIG_HELP = "A YAML file, the name of a shipped config, or the directory of a trained model or of a checkpoint."
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]
TowerOption = Annotated[
    str | None, typer.Option("--tower", metavar="TYPE", help="A tower type in place of CONFIG; goes with --weights.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="PLACE", help="The tower's directory, file or hub id, in place of CONFIG."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Where to run: auto, cpu, cuda, cuda:1, ... Overrides the config.")
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


def place_of(config: str | None, tower: str | None, weights: str | None) -> str | Mapping[str, Any]:
    """What CONFIG names, or the config that ``--tower TYPE --weights PLACE`` stands for. Raises ConfigError."""
    from vita_core.errors import ConfigError
    from vita_core.weights.sources import expand

    if config is not None and tower is None and weights is None:
        return config
    if config is not None:
        raise ConfigError(f"CONFIG and --tower or --weights are both given: {config}. Try: leave one of them out")
    if weights is None:
        given = "neither CONFIG nor --weights is given" if tower is None else f"--tower {tower}: it has no weights"
        raise ConfigError(f"{given}. Try: a config, or `--weights DIR`")
    return {"tower": {"weights": expand(weights, Path.cwd())} | ({} if tower is None else {"type": tower})}


def overridden(overrides: Sequence[str] | None, device: str | None) -> list[str]:
    """The overrides of ``--set`` and ``--device``."""
    return [*(overrides or ()), *([] if device is None else [f"device={device}"])]


def open_model(resolved: Resolved) -> VisionLanguageModel:
    """The resolved model, opened without the libraries' progress bars; its notes are printed on stderr."""
    quiet_transformers()
    from vita_core.models.building import build

    for note in resolved.notes:
        typer.echo(note, err=True)
    return build(resolved)


def quiet_transformers() -> None:
    """No progress bars and warnings of transformers between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
