"""``vita new-reduction`` and ``vita new-projector``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import JsonOption
from vita_core.cli.scaffolding import name_argument, names, write_plugin

__all__ = ["new_projector", "new_reduction"]


def new_reduction(
    name: Annotated[str, name_argument("reduction")],
    at: Annotated[
        Path | None,
        typer.Option(help="The directory, new or empty. Default: ./vita-reduction-NAME.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package with a small working reduction, which you replace by your own."""
    _write(name, "reduction", at, json=json)


def new_projector(
    name: Annotated[str, name_argument("projector")],
    at: Annotated[
        Path | None,
        typer.Option(help="The directory, new or empty. Default: ./vita-projector-NAME.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package with a small working projector, which you replace by your own."""
    _write(name, "projector", at, json=json)


def _write(name: str, kind: str, at: Path | None, *, json: bool) -> None:
    module = write_plugin(kind, at, names(name, kind), {}, json=json)
    if module is not None:
        typer.echo(f"then replace the sample in {module / '__init__.py'} and {module / f'{kind}.py'}")
