"""``vita new-reduction`` and ``vita new-projector``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, print_json
from vita_core.cli.scaffolding import check_name, names, write_package

__all__ = ["new_projector", "new_reduction"]


def new_reduction(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the reduction (`type:` in a config), such as my_pool.")
    ],
    at: Annotated[
        Path | None,
        typer.Option(help="The directory, new or empty. Default: ./vita-reduction-NAME.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package with a small working reduction, which you replace by your own."""
    _write(name, "reduction", at, json=json)


def new_projector(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the projector (`type:` in a config), such as my_mlp.")
    ],
    at: Annotated[
        Path | None,
        typer.Option(help="The directory, new or empty. Default: ./vita-projector-NAME.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package with a small working projector, which you replace by your own."""
    _write(name, "projector", at, json=json)


def _write(name: str, kind: str, at: Path | None, *, json: bool) -> None:
    """Write the package of a `kind` called `name`, and say what to do next. Raises VitaError."""
    check_name(name, kind)
    values = names(name, kind)
    directory = at or Path(values["distribution"])
    write_package(directory, kind, values, {})
    if json:
        print_json({"directory": str(directory), **values})
        return
    typer.echo(f"wrote {directory}")
    typer.echo(f"next: pip install -e {directory} && vita {kind}s && pytest {directory}")
    module = directory / values["module"]
    typer.echo(f"then replace the sample in {module / '__init__.py'} and {module / f'{kind}.py'}")
