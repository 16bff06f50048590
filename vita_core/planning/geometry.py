"""Compute the sizes of a tower from its config: layers, grid, tokens and width. Planning and towers share this module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vita_core.config.schema import FreezeConfig, TowerConfig
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.inside import check_places, patches_behind
from vita_core.planning.reductions import ResolvedReduction, resolve_reductions, stated_blocks, stated_steps
from vita_core.plugins.reductions import Sizes
from vita_core.plugins.specs import Shape

__all__ = ["Geometry", "Grid", "in_whole_blocks", "needed_grid", "own_merge", "s2_sides", "tower_geometry"]

Grid = tuple[int, ...]
"""The places of tokens: (rows, cols) of a picture, (steps, rows, cols) of a video."""


@dataclass(frozen=True)
class Geometry:
    """The sizes of a tower for one picture of its configured size, or for one video.

    layers: the selected layers, counted as Hugging Face's ``hidden_states`` (0 = embeddings), never negative.
    blocks: the number of blocks that are built.
    patch_grid: the grid of the encoder: (rows, cols), or (steps, rows, cols) of a video.
    grid, num_tokens, hidden_size: the grid, number of tokens and width of the output. The grid is None after a reduction that
    leaves none.
    input_size: (height, width) in pixels of the tower's input.
    crops: how many pictures the encoder sees for one picture (more than 1 with S2).
    reductions: those behind the encoder. inside: those in its blocks, and patches: how many they leave behind each layer.
    """

    layers: tuple[int, ...]
    blocks: int
    patch_grid: Grid
    grid: Grid | None
    num_tokens: int
    hidden_size: int
    input_size: tuple[int, int]
    crops: int
    reductions: tuple[ResolvedReduction, ...] = ()
    inside: tuple[ResolvedReduction, ...] = ()
    patches: tuple[int, ...] = ()


def needed_grid(grid: Grid | None) -> Grid:
    """Return a grid. Raises ConfigError if there is none."""
    if grid is None:
        raise ConfigError(
            "tower.reduce: a reduction (or `tower.combine`) leaves no grid of tokens, but `images.anyres.merge` and "
            "`prompt.row_tokens` need one. Try: `images.anyres.merge: flat`, `prompt.row_tokens: null`, or a reduction that "
            "keeps a grid, such as `tower.reduce: {type: pool, window: 2}`"
        )
    return grid


def tower_geometry(config: TowerConfig, shape: Shape) -> Geometry:
    """Check a config, with its defaults, against the shape of an encoder, and compute the sizes.

    Raises ConfigError for a layer out of range, layers with different grids, a final norm or CLS token that the encoder
    does not have, a spatial step together with a kept CLS token, a grid that is not divisible, S2 or pooling with native
    resolution, and S2 of videos.
    """
    layers = _layers(config, shape)
    grids = {shape.stages[layer].grid for layer in layers}
    if len(grids) > 1:
        raise ConfigError(
            f"tower.select_layer: layers {list(layers)} have different grids: {sorted(grids)}. Try: layers with equal grids, "
            f"or one layer, such as `tower.select_layer: {layers[-1]}`"
        )
    if config.norm and shape.norm_parameters is None:
        raise ConfigError("tower.norm: this encoder has no final norm. Try: `tower.norm: false`")
    steps = () if shape.frames is None else (shape.steps,)
    encoded: Grid = grids.pop()
    channels = sum(shape.stages[layer].channels for layer in layers)
    feature = config.select_feature or "patch"
    _check_steps(config, shape, feature)
    input_size, crops = shape.image_size, 1
    if config.s2:
        input_size, crops = _s2(config.s2.scales, shape)
        channels *= len(config.s2.scales)
    patch_grid = (*steps, *encoded)
    stated = stated_steps(config)
    check_places(config, shape, layers, stated)
    inside = tuple(step for step in stated if step.settings.blocks is not None)
    behind = patches_behind(inside, shape, max(layers)) if inside else ()
    patches = behind[-1] if inside else math.prod(patch_grid)
    tokens = {"patch": patches, "cls": 1}.get(feature, 1 + patches)
    on_grid = feature == "patch" and not inside
    reductions = resolve_reductions(config, (*encoded, channels) if on_grid else (tokens, channels))
    grid: Grid | None = None if inside else patch_grid
    if reductions:
        *places, channels = reductions[-1].after
        places = [*steps, *places] if feature == "patch" else places  # of a video, each step is reduced
        grid, tokens = tuple(places) if len(places) > 1 + len(steps) else None, math.prod(places)
        _check_aspects(shape, reductions)
    blocks = max(layers) if config.layers == "needed" else shape.layers
    _check_freeze(config, max(layers))
    return Geometry(layers, blocks, patch_grid, grid, tokens, channels, input_size, crops, reductions, inside, behind)


def _check_freeze(config: TowerConfig, last: int) -> None:
    """Raise ConfigError for ``from_layer`` after the last selected layer, and beside an adapter."""
    if not isinstance(config.freeze, FreezeConfig):
        return
    if config.freeze.from_layer > last:
        choices = f"1..{last}, or " if last else ""
        raise ConfigError(
            f"tower.freeze.from_layer: {config.freeze.from_layer} is after the last selected layer, {last}, "
            f"so nothing would be trained. Try: {choices}`tower.freeze: false`"
        )
    if config.adapter is not None:
        raise ConfigError(
            "tower.freeze: `from_layer` counts the encoder's own weights, which an adapter adds to. Try: `tower.freeze: true`"
        )


def _check_steps(config: TowerConfig, shape: Shape, feature: str) -> None:
    """Raise ConfigError for a CLS token that the encoder does not have, and for steps that do not go together."""
    if feature != "patch" and shape.prefix_tokens + shape.suffix_tokens == 0:
        raise ConfigError(
            f"tower.select_feature: {feature!r} needs a CLS token, but this encoder has none. "
            "Try: `tower.select_feature: patch`"
        )
    if shape.frames is not None and config.s2:
        raise ConfigError("tower.s2: this encoder takes videos, but S2 needs pictures. Try: `tower.s2: null`")
    if feature != "patch" and config.s2:
        raise ConfigError(
            f"tower.s2: it cannot be used with select_feature {feature!r}, because the CLS token has no place in the grid. "
            "Try: `tower.select_feature: patch`"
        )
    if shape.native is not None and config.s2:
        raise ConfigError(
            "tower.s2: this encoder keeps the aspect of each picture, but s2 needs pictures of one size. "
            "Try: `tower.s2: null`, and `images.max_tokens` for more tokens"
        )


def _check_aspects(shape: Shape, reductions: Sequence[ResolvedReduction]) -> None:
    """Raise ConfigError for an encoder of native resolution if a reduction is impossible for the narrowest picture."""
    if shape.native is None or len(reductions[0].before) == 2:
        return
    side = shape.native.merge // own_merge(shape)
    sizes: Sizes = (side, side, reductions[0].before[-1])
    for step in reductions:
        try:
            sizes = step.sizes(sizes)
        except VitaError:
            raise ConfigError(
                f"{step.key}: this encoder keeps the aspect of each picture, but this {step.spec.name} needs pictures of one "
                f"size. Try: leave {step.key} out, and `images.max_tokens` for fewer tokens"
            ) from None


def own_merge(shape: Shape) -> int:
    """Return how many patches of a side the merger of an encoder of native resolution joins before its tokens come out."""
    assert shape.native is not None
    return max(1, shape.image_size[0] // shape.native.patch // shape.stages[-1].grid[0])


def _layers(config: TowerConfig, shape: Shape) -> tuple[int, ...]:
    chosen = -1 if config.select_layer is None else config.select_layer
    count = shape.layers
    resolved = []
    for layer in [chosen] if isinstance(chosen, int) else chosen:
        first = shape.first_layer
        if not -count - 1 <= layer <= count or layer % (count + 1) < first:
            raise ConfigError(
                f"tower.select_layer: {layer} is out of range: this encoder has {count} layers. Try: a layer in "
                f"{first - count - 1}..-1 or {first}..{count} (0 = embeddings, -1 = last)"
            )
        resolved.append(layer % (count + 1))
    return tuple(resolved)


def _s2(scales: Sequence[int], shape: Shape) -> tuple[tuple[int, int], int]:
    if shape.image_size[0] != shape.image_size[1]:
        raise ConfigError(
            f"tower.s2: this encoder takes pictures of {shape.image_size[0]} x {shape.image_size[1]} pixels, but S2 needs "
            "square ones. Try: `tower.s2: null`"
        )
    if scales[0] != shape.image_size[0]:
        raise ConfigError(
            f"tower.s2.scales: the first scale is not the encoder's own size: {scales[0]}. "
            f"Try: {shape.image_size[0]} as the first scale"
        )
    try:
        sides = s2_sides(scales)
    except VitaError as error:
        raise ConfigError(*error.within("tower.s2.scales")) from None
    return (max(scales), max(scales)), sum(side * side for side in sides)


def in_whole_blocks(settings: TowerConfig, shape: Shape, of_size: Callable[[tuple[int, int]], Shape]) -> Shape:
    """Return the shape of a tower whose pictures also fill whole blocks of its reductions (see `ReductionSpec.block`).

    `of_size` returns the shape for pictures of a size. Raises ConfigError if the budget has no room for one block.
    """
    native = shape.native
    if native is None:
        return shape
    blocks = stated_blocks(settings)
    merge = math.lcm(native.merge, own_merge(shape) * math.prod(block for _, block in blocks))
    if merge == native.merge:
        return shape
    try:
        native = replace(native, merge=merge)
    except VitaError:
        raise ConfigError(
            f"{blocks[-1][0]}: {merge} x {merge} patches would be joined, but a picture has at most {native.max_tokens}. "
            "Try: fewer, or leave it out"
        ) from None
    return replace(of_size(native.square), native=native)


def s2_sides(scales: Sequence[int]) -> list[int]:
    """Return the number of crops per side for each scale. Raises VitaError for a scale that the first does not divide."""
    wrong = [scale for scale in scales if scale % scales[0]]
    if wrong:
        raise VitaError(f"not a multiple of the first scale: {wrong[0]}. Try: multiples of {scales[0]}")
    return [scale // scales[0] for scale in scales]
