"""``vita plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.common import (
    CONFIG_HELP,
    DeviceOption,
    JsonOption,
    SetOption,
    TowerOption,
    WeightsOption,
    overridden,
    place_of,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from vita_core.planning.plan import Plan


def plan(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)] = None,
    tower: TowerOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    picture: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Plan for a picture of this size in pixels, such as 1024x768."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print shape, parameters, memory and FLOPs of each stage for one picture, and why the tower was chosen.

    No weights are read.
    """
    from vita_core.planning.plan import make_plan
    from vita_core.planning.resolution import resolve

    resolved = resolve(place_of(config, tower, weights), overridden(overrides, device), offline=True)
    made = make_plan(resolved, picture=None if picture is None else _size(picture))
    refused = _refused(resolved.config.device, resolved.tower.settings.attention, resolved.tower.settings.compile)
    if json:
        print_json({**made.to_dict(), "device": resolved.config.device, "refused_here": refused})
        return
    _print(made)
    if refused:
        typer.echo(f"This machine cannot run it: {refused}")


def _size(text: str) -> tuple[int, int]:
    """Return the (width, height) that the option --picture states. Raises ConfigError for anything else."""
    from vita_core.errors import ConfigError

    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise ConfigError(f"--picture: not a width and a height in pixels: {text!r}. Try: 1024x768")
    return int(sides[0]), int(sides[1])


def _refused(device: str, attention: str, compiled: bool) -> str | None:
    """Return why this machine cannot run the config, or None. torch is only imported if the answer depends on it."""
    if device in ("auto", "cpu") and attention in ("auto", "sdpa", "eager") and not compiled:
        return None
    from vita_core.errors import VitaError
    from vita_core.towers.devices import check_usable, pick_device

    try:
        check_usable("sdpa" if attention == "auto" else attention, compiled, pick_device(device))
    except VitaError as error:
        return str(error)
    return None


def _print(made: Plan) -> None:
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
    for setting in made.settings:
        value = str(setting.value).lower() if isinstance(setting.value, bool) else setting.value
        typer.echo(f"{setting.key} {value} ({setting.origin})")
    tiles = f", {made.tiles} tiles" if made.tiles > 1 else ""
    crops = f", {made.crops} crops per tile" if made.crops > 1 else ""
    cache = f"; its key-value cache takes {made.cache_bytes / 1e6:,.2f} MB" if made.cache_bytes else ""
    one = "picture" if made.frames is None else f"video of {made.frames} frames"
    if made.picture is not None:
        to = " x ".join(map(str, made.pixels[::-1]))
        tiles = f", {made.tiles} tiles of {to} pixels" if made.tiles > 1 else f", resized to {to} pixels"
        one = f"{one} of {made.picture[0]} x {made.picture[1]} pixels"
    elif made.budget is not None:
        one = f"square picture of {made.pixels[1]} x {made.pixels[0]} pixels"
    joined = _joined(made)
    typer.echo(f"One {one}: layers {list(made.layers)}, {_grid(made.grid)}{joined}{tiles}{crops}{cache}.")
    if made.budget is not None:
        least, most = made.budget
        where = " before the projector" if joined else ""
        typer.echo(
            f"Native resolution: each picture keeps its aspect and has {least} to {most} tokens{where}. "
            "`--picture WIDTHxHEIGHT` plans one."
        )


def _grid(sides: tuple[int, ...] | None) -> str:
    return "no grid" if sides is None else f"grid {' x '.join(map(str, sides))}"


def _joined(made: Plan) -> str:
    """Return how many tokens a tile has before and behind a projector that changes their number, else an empty text."""
    tokens = [stage.shape[1] for stage in made.stages if stage.stage in ("tower", "reduce", "projector")]
    if made.stages[-1].stage != "llm" or tokens[-2] == tokens[-1]:
        return ""
    return f" of {tokens[-2]} tokens, {_grid(made.projected_grid)} of {tokens[-1]} behind the projector"
