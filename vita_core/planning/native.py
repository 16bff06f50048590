"""Towers of native resolution: their budget of tokens, and their sizes for one picture."""

from __future__ import annotations

import math
from dataclasses import replace

from vita_core.config.images import ImagesConfig
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.asking import shape_of
from vita_core.planning.fused import ResolvedFused, joined, sized
from vita_core.planning.geometry import tower_geometry
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.native import NativeSize

__all__ = ["at_size", "of_picture", "with_budget"]


def with_budget(tower: ResolvedTower, images: ImagesConfig) -> ResolvedTower:
    """Return `tower` with the budget of ``images.min_tokens`` and ``images.max_tokens``.

    Raises ConfigError if the tower takes pictures of a fixed size, if the budget fits no picture, and if pictures for a tower
    of native resolution would be cut into tiles.
    """
    native, geometry = tower.shape.native, tower.geometry
    wanted = {key: getattr(images, key) for key in ("min_tokens", "max_tokens") if getattr(images, key) is not None}
    name = f"tower {tower.spec.name!r}"
    if native is None:
        if wanted:
            height, width = geometry.input_size
            several = isinstance(tower, ResolvedFused)  # its parts may resize a picture to other sizes
            gives = (
                "gives every picture" if several else f"resizes every picture to {width} x {height} pixels and gives it"
            )
            raise ConfigError(
                f"images.{next(iter(wanted))}: {name} {gives} {geometry.num_tokens} tokens. "
                "Try: leave it out, or `tower.pool` for fewer tokens, or `images.tiles` for more"
            )
        return tower
    for key in ("tiles", "anyres"):
        if getattr(images, key) is not None:
            raise ConfigError(
                f"images.{key}: {name} keeps the aspect of each picture, so there is nothing to cut. "
                f"Try: `images.{key}: null`, and `images.max_tokens` for the size"
            )
    if not wanted:
        return tower
    if isinstance(tower, ResolvedFused) and not tower.gridded:
        raise ConfigError(
            f"images.{next(iter(wanted))}: {name} joins tokens without a grid, so the budget of one part is not that of all. "
            "Try: leave it out, or `tower.combine: channel`"
        )
    return sized(tower, _budgeted(native, tower, wanted))


def _budgeted(native: NativeSize, tower: ResolvedTower, wanted: dict[str, int]) -> NativeSize:
    """Return `native` with a budget that is given in tokens of the language model. Raises ConfigError if it fits no picture."""
    key = next(iter(wanted))
    if tower.settings.select_feature == "cls":
        raise ConfigError(
            f"images.{key}: with `tower.select_feature: cls` every picture has one token. Try: leave it out"
        )
    if "min_tokens" in wanted and native.rule != "between" and native.min_tokens == 1:
        how = f"by the rule {native.rule!r}" if isinstance(native.rule, str) else "by a rule without one"
        raise ConfigError(
            f"images.min_tokens: tower {tower.spec.name!r} has no lower limit: it resizes pictures {how}. "
            "Try: `images.max_tokens` alone"
        )
    extra = int(tower.settings.select_feature == "cls_patch")  # a kept CLS token
    patches = tower.patches_per_token
    least, most = ((wanted[k] - extra) * patches if k in wanted else None for k in ("min_tokens", "max_tokens"))
    if most is not None and native.by_edge:  # the budget of its largest square, in whole blocks
        most = (math.isqrt(max(0, most)) // native.merge * native.merge) ** 2
    try:
        changed = replace(
            native,
            min_tokens=native.min_tokens if least is None else least,
            max_tokens=native.max_tokens if most is None else most,
        )
    except VitaError:
        low, high = (int(tokens) // patches + extra for tokens in (native.min_tokens, native.max_tokens))
        raise ConfigError(
            f"images.{key}: no picture fits: {wanted[key]}. One token is {patches} patches, and the tower's own budget is {low} "
            f"to {high} tokens. Try: a value between these"
        ) from None
    if changed.max_side is not None and changed.square[0] // changed.patch > changed.max_side:
        side = changed.max_side
        raise ConfigError(
            f"images.max_tokens: {wanted['max_tokens']} is more than the encoder has positions for: {side} x {side} patches. "
            f"Try: {side * side // patches + extra} or less"
        )
    return changed


def of_picture(tower: ResolvedTower, height: int, width: int) -> ResolvedTower:
    """Return a tower with its sizes and costs for a picture of (height, width) pixels, which native resolution resizes.

    Each part of a fused tower resizes the picture itself. A tower of a fixed size stays as it is.
    """
    if isinstance(tower, ResolvedFused) and any(part.shape.native for part in tower.parts):
        return joined(tower, [of_picture(part, height, width) for part in tower.parts])
    native = None if tower.parts else tower.shape.native
    return tower if native is None else at_size(tower, native.size(height, width))


def at_size(tower: ResolvedTower, size: tuple[int, int]) -> ResolvedTower:
    """Return a tower of one encoder, of native resolution, with its sizes and costs for resized pictures of (height, width)."""
    shape = shape_of(tower.spec, tower.owner, tower.source, tower.settings.options, size)
    shape = replace(shape, native=tower.shape.native)
    return replace(tower, shape=shape, geometry=tower_geometry(tower.settings, shape))
