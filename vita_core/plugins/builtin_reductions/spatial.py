"""The rules of the reductions of a grid without weights: pixel shuffle, pooling, interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vita_core.errors import VitaError
from vita_core.plugins.reductions import ReductionSpec, Sizes
from vita_core.plugins.shapes import pair

__all__ = ["INTERPOLATE", "PIXEL_SHUFFLE", "POOL", "shuffle_step", "shuffled_grid"]

ROOM = "vita_core.towers.reductions.spatial"
OPTIONS = "vita_core.config.reductions"


def shuffle_step(scale_factor: float) -> int:
    """Return n for the scale factor 1/n of a pixel shuffle. Raises VitaError for another number."""
    step = round(1 / scale_factor)
    if not math.isclose(step * scale_factor, 1, rel_tol=1e-6):
        raise VitaError(f"{scale_factor} is not 1/n for an integer n. Try: 0.5 or 0.25")
    return step


def shuffled_grid(grid: tuple[int, ...], scale_factor: float) -> tuple[int, ...]:
    """Return the grid after a pixel shuffle, which keeps the steps of a video. Raises VitaError if a side is not divisible."""
    *steps, rows, cols = grid
    step = shuffle_step(scale_factor)
    if rows % step or cols % step:
        raise VitaError(
            f"{scale_factor} needs a grid that is divisible by {step}, not {rows} x {cols}. Try: a scale factor 1/n "
            "for an n that divides both sides"
        )
    return (*steps, rows // step, cols // step)


def _shuffled(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    step = shuffle_step(options["scale_factor"])
    rows, cols = shuffled_grid(sizes[:2], options["scale_factor"])
    return (*((rows, cols) if options["order"] == "v2" else (cols, rows)), sizes[2] * step * step)


def _pooled(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    rows, cols, width = sizes
    if options["window"] is None:
        down, right = pair(options["grid"])
        if down > rows or right > cols:
            raise VitaError(
                f"{down} x {right} is larger than the grid of {rows} x {cols}. Try: [{min(down, rows)}, {min(right, cols)}]"
            )
        return down, right, width
    down, right = pair(options["window"])
    if rows % down or cols % right:
        raise VitaError(
            f"a window of {down} x {right} does not divide the grid of {rows} x {cols}. Try: a window whose sides divide "
            "those of the grid, or `grid` for the grid of the output"
        )
    return rows // down, cols // right, width


def _window(options: Mapping[str, Any]) -> int:
    return math.lcm(*pair(options["window"])) if options["window"] is not None else 1


def _interpolated(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    return (*pair(options["grid"]), sizes[-1])


PIXEL_SHUFFLE = ReductionSpec(
    name="pixel_shuffle",
    summary="moves neighbouring tokens into channels",
    factory=f"{ROOM}:PixelShuffle",
    sizes=_shuffled,
    paper="How Far Are We to GPT-4V? (InternVL 1.5), arXiv 2404.16821",
    block=lambda options: shuffle_step(options["scale_factor"]),
    options=f"{OPTIONS}:PixelShuffleOptions",
)
POOL = ReductionSpec(
    name="pool",
    summary="the average or the largest value of neighbouring tokens",
    factory=f"{ROOM}:Pool",
    sizes=_pooled,
    paper="DeCo: Decoupling Token Compression from Semantic Abstraction, arXiv 2405.20985",
    block=_window,
    options=f"{OPTIONS}:PoolOptions",
    example={"window": 2},
)
INTERPOLATE = ReductionSpec(
    name="interpolate",
    summary="resizes the map of tokens to a grid",
    factory=f"{ROOM}:Interpolate",
    sizes=_interpolated,
    paper="LLaVA-OneVision: Easy Visual Task Transfer, arXiv 2408.03326",
    options=f"{OPTIONS}:InterpolateOptions",
    example={"grid": [3, 6]},
)
