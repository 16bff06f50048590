"""Arguments, options and functions that several commands share."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_core import interrupts
from vita_core.masking import masked

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
    "resumable",
]

CONFIG_HELP = "A YAML file, a shipped config (such as quickstart), or the directory of a trained model or a checkpoint."
ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]
TowerOption = Annotated[
    str | None, typer.Option("--tower", metavar="TYPE", help="The type of a tower, with --weights, instead of CONFIG.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="PLACE", help="The directory, file or hub id of a tower's weights, instead of CONFIG."
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="The device: auto, cpu, cuda, cuda:1, ... Overrides the config.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config, such as tower.select_layer=-1."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(data: Any) -> None:
    """Print plain data as indented JSON. Bytes of file names that are not UTF-8 are printed as ``\\udcNN``."""
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    typer.echo(text.encode("utf-8", "backslashreplace").decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: with rich on a terminal, else as plain columns that are two spaces apart."""
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
    """Return CONFIG, or a config for ``--tower TYPE --weights PLACE``. Raises ConfigError if both or neither are given."""
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
    """Return the overrides of ``--set`` and ``--device`` in one list."""
    return [*(overrides or ()), *([] if device is None else [f"device={device}"])]


def open_model(resolved: Resolved) -> VisionLanguageModel:
    """Build a resolved model without the libraries' progress bars, and print its notes on stderr."""
    quiet_transformers()
    from vita_core.models.building import build

    for note in resolved.notes:
        typer.echo(note, err=True)
    return build(resolved)


def quiet_transformers() -> None:
    """Turn off transformers' progress bars and warnings, which would mix with our own output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@contextlib.contextmanager
def resumable(*, kept: bool = True) -> Iterator[None]:
    """Keep transformers' bars away, and what a training prints out of stdout.

    If what was done is `kept`, the line at the end of an interrupted command says how to go on.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    from vita_core.training.processes import count

    launched = ["torchrun", "--nproc-per-node", str(count()), "-m", "vita_core.training"]
    again = shlex.join([*(["vita"] if count() == 1 else launched), *map(masked, sys.argv[1:])])
    advice = f" What is done so far is kept. To go on, run the same command again: {again}" if kept else ""
    with interrupts.said_at_end(f"stopped.{advice}"), contextlib.redirect_stdout(sys.stderr):
        yield
