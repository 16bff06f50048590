"""Reductions inside the encoder, in some of its blocks: where they can run, and what the blocks behind them cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from vita_core.config.schema import TowerConfig
from vita_core.errors import ConfigError
from vita_core.planning.asking import asked
from vita_core.planning.reductions import ResolvedReduction
from vita_core.plugins.installed import Owner
from vita_core.plugins.specs import Shape, TowerSpec
from vita_core.weights.sources import Source

__all__ = ["block_macs", "check_offered", "check_places", "patches_behind"]

Steps = Sequence[ResolvedReduction]


def patches_behind(inside: Steps, shape: Shape, last: int) -> tuple[int, ...]:
    """Return the number of patches behind each layer, 0 to `last`. Raises ConfigError for a step that is impossible."""
    counts = [math.prod(shape.stages[0].grid)]
    for block in range(1, last + 1):
        for step in inside:
            if block in (step.settings.blocks or ()):
                counts.append(step.sizes((counts[-1], shape.stages[block].channels))[0])
                break
        else:
            counts.append(counts[-1])
    return tuple(counts)


def block_macs(shape: Shape, patches: Sequence[int]) -> list[int]:
    """Return the multiply-accumulates of each layer for one picture, if so many `patches` are left behind each.

    A block reduces them between its attention, which costs ``4 T C^2 + 2 T^2 C`` for T tokens of width C, and its MLP.
    """
    macs = [shape.stages[0].macs]
    prefix, whole = shape.prefix_tokens, shape.prefix_tokens + math.prod(shape.stages[0].grid)
    for index, (before, after) in enumerate(pairwise(patches), 1):
        stage, width = shape.stages[index], shape.stages[index].channels
        # without a layer 0, the first one counts the patch embedding too
        block = shape.stages[min(2, shape.layers)].macs if index <= shape.first_layer else stage.macs
        behind = (block - _attention_macs(whole, width)) * (prefix + after) // whole
        macs.append(stage.macs - block + _attention_macs(prefix + before, width) + behind)
    return macs


def _attention_macs(tokens: int, width: int) -> int:
    return 4 * tokens * width * width + 2 * tokens * tokens * width


def check_places(config: TowerConfig, shape: Shape, layers: Sequence[int], steps: Steps) -> None:
    """Raise ConfigError for steps that cannot run where the config puts them: inside the encoder, or behind it without the
    CLS token that they need."""
    inside = [step for step in steps if step.settings.blocks is not None]
    for step in steps:
        if step.spec.spatial and inside:
            raise ConfigError(
                f"{step.key}: {step.spec.name!r} needs the grid of the tokens, but {inside[0].key} reduces them inside the "
                "encoder and leaves none. Try: leave one of the two out"
            )
    taken: dict[int, str] = {}
    for index, step in enumerate(steps):
        name, first = f"{step.key}: {step.spec.name!r}", next((s for s in steps[:index] if not s.settings.blocks), None)
        if step.spec.scores and shape.prefix_tokens == 0:
            raise ConfigError(
                f"{name} keeps what the CLS token attends to, but this encoder has none. Try: `type: token_merging` instead"
            )
        if step.settings.blocks is None:
            _check_behind(name, step, config, shape, layers, first)
            last = max(layers)
            if step.spec.scores and last in taken:
                raise ConfigError(
                    f"{name} needs the attention of the last block that runs, {last}, but {taken[last]} reduces the tokens "
                    f"behind it. Try: other blocks there, or `blocks: [{last}]` here"
                )
            continue
        if first is not None:
            raise ConfigError(
                f"{name} runs inside the encoder, so before {first.key} ({first.spec.name!r}). Try: write it first"
            )
        _check_settings(name, config, shape)
        for block in step.settings.blocks:
            _check_block(f"{step.key}.blocks: block {block}", block, layers, taken.get(block))
            taken[block] = step.key


def _check_settings(name: str, config: TowerConfig, shape: Shape) -> None:
    """Raise ConfigError for settings with which nothing can be reduced inside the encoder."""
    if config.s2 is not None:
        raise ConfigError(
            f"{name} inside the encoder leaves no grid, but `tower.s2` joins the grids of its crops. Try: `tower.s2: null`, or "
            "leave `blocks` out"
        )
    if shape.native is not None:
        raise ConfigError(
            f"{name} runs inside the encoder only for pictures of one size, but this encoder keeps their aspect. "
            "Try: leave `blocks` out"
        )
    if config.compile:
        raise ConfigError(
            f"{name} takes the encoder's blocks apart, so they cannot be compiled. Try: `tower.compile: false`"
        )
    if config.attention not in ("auto", "sdpa", "eager"):
        raise ConfigError(
            f"{name} inside the encoder weighs merged tokens by a bias, which {config.attention!r} does not take. "
            "Try: `tower.attention: sdpa`"
        )


def _check_block(name: str, block: int, layers: Sequence[int], taken: str | None) -> None:
    """Raise ConfigError for a block that is not run, is listed twice, or lies between two selected layers."""
    if block > max(layers):
        raise ConfigError(
            f"{name} is not run, because the last selected layer is {max(layers)}. Try: blocks in 1..{max(layers)}"
        )
    if taken is not None:
        raise ConfigError(f"{name} is listed twice, in {taken} before. Try: every block once")
    if block > min(layers):
        raise ConfigError(
            f"{name} lies between the selected layers {sorted(set(layers))}, which would have different numbers of tokens. "
            f"Try: blocks in 1..{min(layers)}, or one layer (`tower.select_layer: {max(layers)}`)"
        )


def _check_behind(
    name: str,
    step: ResolvedReduction,
    config: TowerConfig,
    shape: Shape,
    layers: Sequence[int],
    first: ResolvedReduction | None,
) -> None:
    """Raise ConfigError for a step behind the encoder that is for patches alone, or that has no scores of its tokens."""
    if step.spec.inside is not None and config.select_feature not in (None, "patch"):
        raise ConfigError(
            f"{name} reduces patches, but `tower.select_feature: {config.select_feature}` keeps the CLS token with them. "
            "Try: `tower.select_feature: patch`, or `blocks`, which leave the CLS token as it is"
        )
    if not step.spec.scores:
        return
    if shape.native is not None:
        raise ConfigError(
            f"{name} needs pictures of one size, but this encoder keeps their aspect. Try: `type: token_merging` with `ratio` "
            "instead"
        )
    if config.s2 is not None:
        raise ConfigError(
            f"{name} needs the CLS token of the picture, but `tower.s2` runs the encoder on crops. "
            "Try: `type: token_merging` instead"
        )
    if max(layers) == 0:
        raise ConfigError(
            f"{name} needs the attention of the last block that runs, but none runs. Try: a `tower.select_layer` above 0"
        )
    if first is not None:
        raise ConfigError(
            f"{name} needs the patches as the encoder gives them, but {first.key} ({first.spec.name!r}) comes before. "
            "Try: write it first, or leave the other one out"
        )


def check_offered(spec: TowerSpec, owner: Owner, source: Source, config: TowerConfig, steps: Steps) -> None:
    """Raise ConfigError if a tower does not offer its blocks to steps that need them (see `TowerSpec.opens_blocks`)."""
    step = next((step for step in steps if step.settings.blocks is not None or step.spec.scores), None)
    if step is None:
        return
    offered = spec.opens_blocks
    if isinstance(offered, str):
        offered = asked(offered, spec, owner, source, config.options)
    if offered:
        return
    name, tower = f"{step.key}: {step.spec.name!r}", f"tower {spec.name!r} ({source.weights})"
    if step.settings.blocks is not None:
        raise ConfigError(f"{name} cannot run inside the encoder of {tower}. Try: leave `blocks` out")
    raise ConfigError(
        f"{name} needs the attention of the CLS token, which {tower} does not give. Try: `type: token_merging` instead"
    )
