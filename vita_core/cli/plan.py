"""``vita plan``."""

from __future__ import annotations

from collections.abc import Sequence
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
    from vita_core.planning.origins import Setting
    from vita_core.planning.plan import Plan
    from vita_core.planning.resolution import Resolved
    from vita_core.planning.stages import PlannedStage
    from vita_core.planning.training import StagePlan


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
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, help="The number of GPUs, for the memory that a training takes on each.")
    ] = 1,
    json: JsonOption = False,
) -> None:
    """Print shape, parameters, memory and FLOPs of each stage for one picture, and why the tower was chosen.

    Of a config with `training.stages`, print also what each of them trains, and what a step costs. No weights are read.
    """
    from vita_core.planning.plan import make_plan
    from vita_core.planning.resolution import resolve

    resolved = resolve(place_of(config, tower, weights), overridden(overrides, device), offline=True)
    made = make_plan(resolved, picture=None if picture is None else _size(picture))
    trained = _stages(resolved, made, processes)
    towers = [part.settings for part in (resolved.tower.parts or (resolved.tower,))]
    found = [_refused(one.device or resolved.config.device, one.attention, one.compile) for one in towers]
    refused = next(filter(None, found), None)
    if json:
        stages = {"training": [stage.to_dict() for stage in trained]} if trained else {}
        print_json({**made.to_dict(), **stages, "device": resolved.config.device, "refused_here": refused})
        return
    _print(made)
    for stage in trained:
        _print_stage(stage)
    if refused:
        typer.echo(f"This machine cannot run it: {refused}")


def _stages(resolved: Resolved, made: Plan, processes: int) -> list[StagePlan]:
    """Return the plans of the stages of a training, after the checks that `vita train` makes before it reads a weight."""
    if resolved.config.training.stages is None:
        return []
    from vita_core.planning.training import plan_stages
    from vita_core.training.stages import resolve_stages

    data = resolved.config.data or ["data"]  # without a section `data`, one that `vita train --data` will give
    stages = resolve_stages(resolved, data, processes)
    return plan_stages(resolved, made, [stage.settings for stage in stages], processes)


def _print_stage(stage: StagePlan) -> None:
    """Print what a stage trains, what a step costs, and the memory of one GPU."""
    known = "" if stage.flops is None else f", {stage.flops / 1e12:,.1f} TFLOPs"
    numbers = [(part.part, part.how, part.parameters, part.trained) for part in stage.parts]
    print_table(
        f"stage {stage.name}: {stage.samples:,} samples a step, up to {stage.tokens:,} tokens, {stage.visual:,} of them "
        f"visual{known}",
        ["part", "trained", "parameters", "of them trained"],
        [(part, how, *("not known" if n is None else f"{n:,}" for n in counts)) for part, how, *counts in numbers],
    )
    if stage.limit != "max_length":
        typer.echo("max_length is not set: a sample counts with all tokens that the language model reads")
    if stage.unknown:
        typer.echo(f"memory: not known, because the layers of these parts are not: {', '.join(stage.unknown)}")
        return
    print_table(
        f"GB on each of {stage.processes} GPUs" if stage.processes > 1 else "GB on one GPU",
        ["parallel", "weights", "gradients", "optimizer", "activations (estimate)", "together"],
        [
            (name, *(f"{size / 1e9:,.2f}" for size in (m.weights, m.gradients, m.optimizer, m.activations, m.total)))
            for name, m in stage.memory.items()
        ],
    )


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


def _costs(planned: Plan | PlannedStage) -> tuple[str, str, str]:
    return f"{planned.parameters:,}", f"{planned.weight_bytes / 1e6:,.1f}", f"{planned.flops / 1e9:,.1f}"


def _print(made: Plan) -> None:
    rows = [(s.stage, s.what, " x ".join(map(str, s.shape)), *_costs(s)) for s in made.stages]
    parts = [(f"  {s.stage} {place}", s.what, s.shape, s) for place, part in enumerate(made.parts) for s in part.stages]
    rows[2:2] = [(stage, what, " x ".join(map(str, shape)), *_costs(s)) for stage, what, shape, s in parts]
    rows.append(("total", "", f"{made.tokens} visual tokens", *_costs(made)))
    print_table(
        f"tower {made.tower} ({made.owner}), chosen by {made.rule}",
        ["stage", "what", "shape", "parameters", "weights, MB", "GFLOPs"],
        rows,
    )
    _print_settings(made.settings)
    for place, part in enumerate(made.parts):
        typer.echo(f"towers.{place}: tower {part.tower} ({part.owner}), chosen by {part.rule}, weights {part.weights}")
        _print_settings(part.settings, "  ")
        crops = f", {part.crops} crops per tile" if part.crops > 1 else ""
        height, width = part.pixels
        typer.echo(f"  layers {list(part.layers)}, {_grid(part.grid)}, pixels {width} x {height}{crops}")
    tiles = f", {made.tiles} tiles" if made.tiles > 1 else ""
    crops = f", {made.crops} crops per tile" if made.crops > max(1, len(made.parts)) else ""
    cache = f"; its key-value cache takes {made.cache_bytes / 1e6:,.2f} MB" if made.cache_bytes else ""
    one = "picture" if made.frames is None else f"video of {made.frames} frames"
    if made.picture is not None:
        to = " x ".join(map(str, made.pixels[::-1]))
        tiles = f", {made.tiles} tiles of {to} pixels" if made.tiles > 1 else f", resized to {to} pixels"
        one = f"{one} of {made.picture[0]} x {made.picture[1]} pixels"
    elif made.budget is not None:
        one = f"square picture of {made.pixels[1]} x {made.pixels[0]} pixels"
    joined = _joined(made)
    layers = f"{len(made.parts)} encoders" if made.parts else f"layers {list(made.layers)}"
    typer.echo(f"One {one}: {layers}, {_grid(made.grid)}{joined}{tiles}{crops}{cache}.")
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


def _print_settings(settings: Sequence[Setting], indent: str = "") -> None:
    for setting in settings:
        value = str(setting.value).lower() if isinstance(setting.value, bool) else setting.value
        typer.echo(f"{indent}{setting.key} {value} ({setting.origin})")
