"""The stages of a plan: tower, reductions, projector and language model, each with its sizes and costs. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vita_core.planning.language import ResolvedLLM
from vita_core.planning.projectors import ResolvedProjector
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.specs import LLMShape

__all__ = ["BYTES", "PlannedStage", "llm_stage", "projector_stage", "tower_stages"]

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 4}
"""Bytes of one value. ``auto`` counts as float32, the largest that it can be, because the plan does not check the device."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan, for one picture or video: output shape, parameters, bytes of its weights, and FLOPs.

    A multiply-accumulate counts as two FLOPs.
    """

    stage: str
    what: str
    shape: tuple[int, ...]
    parameters: int
    weight_bytes: int
    flops: int


def tower_stages(resolved: ResolvedTower, tiles: int) -> list[PlannedStage]:
    """Return the stages of a tower in a plan, for one picture cut into `tiles` tiles: the encoder, then each of ``reduce``.

    The shorthands ``pixel_shuffle`` and ``pool``, and steps inside the encoder, count as part of the first stage.
    """
    geometry, shape, settings = resolved.geometry, resolved.shape, resolved.settings
    what = " with ".join([resolved.spec.name, *(step.spec.name for step in geometry.inside)])
    steps = shape.steps if shape.frames is not None and settings.select_feature in (None, "patch") else 1
    own = [step for step in geometry.reductions if step.key.startswith("tower.reduce")]
    *places, width = own[0].before if own else (geometry.num_tokens, geometry.hidden_size)
    tokens = math.prod(places) * (steps if own else 1)
    parameters, size, macs = _encoder_costs(resolved)
    stages = [PlannedStage("tower", what, (tiles, tokens, width), parameters, size, 2 * tiles * macs)]
    for step in own:
        *places, width = step.after
        output = (tiles, math.prod(places) * steps, width)
        weights = step.parameters * BYTES[settings.dtype]
        stages.append(
            PlannedStage("reduce", step.spec.name, output, step.parameters, weights, 2 * tiles * steps * step.macs)
        )
    return stages


def _encoder_costs(resolved: ResolvedTower) -> tuple[int, int, int]:
    """Return parameters, bytes and multiply-accumulates for one picture. Those of a fused tower's parts count whole."""
    if not resolved.parts:
        return resolved.parameters, resolved.parameters * BYTES[resolved.settings.dtype], resolved.macs
    stages = [stage for part in resolved.parts for stage in tower_stages(part, 1)]
    flops = sum(stage.flops for stage in stages)
    return sum(stage.parameters for stage in stages), sum(stage.weight_bytes for stage in stages), flops // 2


def projector_stage(
    projector: ResolvedProjector, out: int, tower: ResolvedTower, tiles: int, value: int
) -> PlannedStage:
    """Return the stage of a projector to the width `out`, for a picture in `tiles` tiles. `value` is a parameter's bytes."""
    parameters, geometry = projector.parameters(out), tower.geometry
    _, tokens = projector.behind(geometry.grid, geometry.num_tokens)
    flops = 2 * tiles * projector.macs(geometry.grid, geometry.num_tokens, out)
    return PlannedStage(
        "projector", projector.settings.type, (tiles, tokens, out), parameters, parameters * value, flops
    )


def llm_stage(llm: ResolvedLLM, shape: LLMShape, tokens: int, value: int) -> PlannedStage:
    """Return the language model's stage for `tokens` visual tokens. `value` is the bytes of one parameter."""
    name = llm.settings.weights.rstrip("/").rpartition("/")[2]
    flops = 2 * shape.macs_per_token * tokens
    return PlannedStage("llm", name, (tokens, shape.hidden_size), shape.parameters, shape.parameters * value, flops)
