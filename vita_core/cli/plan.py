"""``vita plan``."""

from __future__ import annotations

import typer

from vita_core.cli.common import ConfigArgument, JsonOption, SetOption, print_json, print_table


def plan(config: ConfigArgument, overrides: SetOption = None, json: JsonOption = False) -> None:
    """Each stage's shape, tokens, parameters, memory and FLOPs per picture, without weights; and why this tower."""
    from vita_core.config.schema import load_config
    from vita_core.planning.plan import make_plan

    made = make_plan(load_config(config, overrides or ()))
    if json:
        print_json(made.to_dict())
        return
    rows = [
        (
            s.stage,
            s.what,
            " x ".join(map(str, s.shape)),
            f"{s.parameters:,}",
            f"{s.weight_bytes / 1e6:,.1f}",
            f"{s.flops / 1e9:,.1f}",
        )
        for s in made.stages
    ]
    rows.append(
        (
            "total",
            "",
            f"{made.tokens} visual tokens",
            f"{made.parameters:,}",
            f"{made.weight_bytes / 1e6:,.1f}",
            f"{made.flops / 1e9:,.1f}",
        )
    )
    print_table(
        f"tower {made.tower} ({made.owner}), chosen by {made.rule}",
        ["stage", "what", "shape", "parameters", "weights, MB", "GFLOPs"],
        rows,
    )
    tiles = f", {made.tiles} tiles" if made.tiles > 1 else ""
    crops = f", {made.crops} crops a tile" if made.crops > 1 else ""
    typer.echo(
        f"One picture: layers {list(made.layers)}, grid {made.grid[0]} x {made.grid[1]}{tiles}{crops}; "
        f"its key-value cache takes {made.cache_bytes / 1e6:,.2f} MB."
    )
