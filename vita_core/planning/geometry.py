"""Integers of a tower: which layers, how many tokens, how wide. No torch; `tower.py` and `planning.py` both read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vita_core.config.schema import FreezeConfig, TowerConfig
from vita_core.errors import ConfigError, VitaError
from vita_core.plugins.specs import Shape

__all__ = ["Geometry", "Grid", "s2_sides", "shuffled_grid", "tower_geometry"]

Grid = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What a configured tower makes of one picture of its configured size.

    layers: the selected layers, counted as Hugging Face's ``hidden_states`` (0 = embeddings), never negative.
    blocks: how many blocks are built. patch_grid: the encoder's own grid; grid, num_tokens, hidden_size: of the output.
    input_size: (height, width) in pixels that the tower takes; crops: pictures the encoder sees for one (S2).
    """

    layers: tuple[int, ...]
    blocks: int
    patch_grid: Grid
    grid: Grid
    num_tokens: int
    hidden_size: int
    input_size: tuple[int, int]
    crops: int


def tower_geometry(config: TowerConfig, shape: Shape) -> Geometry:
    """Check a config (its defaults filled in) against an encoder's shape and work the sizes out.

    Raises ConfigError for a layer out of range, layers of different grids, a norm the encoder lacks, prefix tokens it
    lacks, a spatial step together with a kept CLS token, and a grid that does not divide.
    """
    layers = _layers(config, shape)
    grids = {shape.stages[layer].grid for layer in layers}
    if len(grids) > 1:
        raise ConfigError(
            f"tower.select_layer: layers {list(layers)} have different grids ({grids}); pick layers of one"
        )
    if config.norm and shape.norm_parameters is None:
        raise ConfigError("tower.norm: this encoder has no final norm to apply; leave `norm` out")
    grid = patch_grid = grids.pop()
    channels = sum(shape.stages[layer].channels for layer in layers)
    feature = config.select_feature or "patch"
    spatial = [key for key in ("s2", "pixel_shuffle", "pool") if getattr(config, key)]
    if feature != "patch" and shape.prefix_tokens == 0:
        raise ConfigError(
            f"tower.select_feature: {feature!r} needs a CLS token, which this encoder has not; use 'patch'"
        )
    if feature != "patch" and spatial:
        raise ConfigError(f"tower.{spatial[0]}: needs `select_feature: patch`; {feature!r} keeps a token with no place")
    input_size, crops = shape.image_size, 1
    if config.s2:
        input_size, crops = _s2(config.s2.scales, shape)
        channels *= len(config.s2.scales)
    try:
        if config.pixel_shuffle:
            grid = shuffled_grid(grid, config.pixel_shuffle)
            channels *= (patch_grid[0] // grid[0]) * (patch_grid[1] // grid[1])
    except VitaError as error:
        raise ConfigError(f"tower.pixel_shuffle: {error}") from None
    if config.pool:
        size = (config.pool, config.pool) if isinstance(config.pool, int) else (config.pool[0], config.pool[1])
        if size[0] > grid[0] or size[1] > grid[1]:
            raise ConfigError(f"tower.pool: {size[0]} x {size[1]} is larger than the grid of {grid[0]} x {grid[1]}")
        grid = size
    tokens = 1 if feature == "cls" else grid[0] * grid[1] + (feature == "cls_patch")
    blocks = max(layers) if config.layers == "needed" else shape.layers
    if isinstance(config.freeze, FreezeConfig) and config.freeze.from_layer > max(layers):
        choices = f"1..{max(layers)} or " if max(layers) else ""
        raise ConfigError(
            f"tower.freeze.from_layer: {config.freeze.from_layer} is behind layer {max(layers)}, the last one selected, "
            f"so nothing would be trained; give {choices}`freeze: false`"
        )
    return Geometry(layers, blocks, patch_grid, grid, tokens, channels, input_size, crops)


def _layers(config: TowerConfig, shape: Shape) -> tuple[int, ...]:
    chosen = -1 if config.select_layer is None else config.select_layer
    count = shape.layers
    resolved = []
    for layer in [chosen] if isinstance(chosen, int) else chosen:
        first = shape.first_layer
        if not -count - 1 <= layer <= count or layer % (count + 1) < first:
            raise ConfigError(
                f"tower.select_layer: {layer} is out of range; this encoder has {count} layers, so "
                f"{first - count - 1}..-1 or {first}..{count} (0 = embeddings, -1 = last)"
            )
        resolved.append(layer % (count + 1))
    return tuple(resolved)


def _s2(scales: Sequence[int], shape: Shape) -> tuple[tuple[int, int], int]:
    if shape.image_size[0] != shape.image_size[1]:
        raise ConfigError(
            f"tower.s2: needs an encoder of square pictures, not {shape.image_size[0]} x {shape.image_size[1]}"
        )
    if scales[0] != shape.image_size[0]:
        raise ConfigError(
            f"tower.s2.scales: the first must be the encoder's own size {shape.image_size[0]}, not {scales[0]}"
        )
    try:
        sides = s2_sides(scales)
    except VitaError as error:
        raise ConfigError(f"tower.s2.scales: {error}") from None
    return (max(scales), max(scales)), sum(side * side for side in sides)


def s2_sides(scales: Sequence[int]) -> list[int]:
    """Crops per side at each scale. Raises VitaError where a scale is no multiple of the first."""
    wrong = [scale for scale in scales if scale % scales[0]]
    if wrong:
        raise VitaError(f"every scale must be a multiple of the first ({scales[0]}); {wrong[0]} is not")
    return [scale // scales[0] for scale in scales]


def shuffled_grid(grid: Grid, scale_factor: float) -> Grid:
    """Grid after a pixel shuffle. Raises VitaError where a side does not divide."""
    step = round(1 / scale_factor)
    if not math.isclose(step * scale_factor, 1, rel_tol=1e-6):
        raise VitaError(f"{scale_factor} is not 1/n for an integer n (0.5, 0.25, ...)")
    if grid[0] % step or grid[1] % step:
        raise VitaError(f"{scale_factor} needs a grid divisible by {step}, not {grid[0]} x {grid[1]}")
    return grid[0] // step, grid[1] // step
