"""The same path as the model's, on integers: shapes, tokens, parameters, memory and cost of a config. No torch of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vita_core.config.schema import Config, load_config
from vita_core.config.validation import validate
from vita_core.errors import CheckpointError
from vita_core.planning.resolution import ResolvedTower, check_projector_weights, resolve_projector, resolve_tower
from vita_core.plugins.registry import import_object, registry
from vita_core.plugins.specs import LLMShape, LLMSpec
from vita_core.weights.sources import locate

__all__ = ["Plan", "PlannedStage", "make_plan", "tower_stage"]

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 4}
"""Of one value; ``auto`` at the most it can come to, for the device is not asked here."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage for one picture: output shape, parameters, bytes of weights, FLOPs (two per multiply-accumulate)."""

    stage: str
    what: str
    shape: tuple[int, ...]
    parameters: int
    weight_bytes: int
    flops: int


@dataclass(frozen=True)
class Plan:
    """What a config comes to. `rule` says why its tower was chosen; `crops` pictures go through the encoder per tile
    (S2), and up to `tiles` tiles are cut from one picture. `cache_bytes` is the key-value cache of the visual tokens."""

    rule: str
    tower: str
    owner: str
    weights: str
    layers: tuple[int, ...]
    grid: tuple[int, int]
    tokens: int
    tiles: int
    crops: int
    stages: tuple[PlannedStage, ...]
    parameters: int
    weight_bytes: int
    cache_bytes: int
    flops: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``vita plan --json`` prints it."""
        return asdict(self)


def make_plan(config: Config | Mapping[str, Any] | str | os.PathLike[str]) -> Plan:
    """Plan a config without reading a weight; known hub ids need no network.

    Costs are for one picture cut into the most tiles the config allows, and the prompt's visual tokens alone.
    Raises ConfigError, PluginError or CheckpointError.
    """
    if isinstance(config, str | os.PathLike):
        config = load_config(config)
    settings = config if isinstance(config, Config) else validate(Config, config)
    resolved = resolve_tower(settings.tower, offline=True)
    geometry, tiles = resolved.geometry, settings.images.most_tiles
    tokens = tiles * geometry.num_tokens
    llm = plan_llm(settings)
    height, width = geometry.input_size
    stages = (
        PlannedStage("picture", "pixels", (tiles, 3, height, width), 0, 0, 0),
        tower_stage(resolved, tiles),
        _projector_stage(settings, geometry.hidden_size, llm.hidden_size, tiles, geometry.num_tokens),
        _llm_stage(settings, llm, tokens),
    )
    return Plan(
        rule=resolved.rule,
        tower=resolved.spec.name,
        owner=str(resolved.owner),
        weights=settings.tower.weights,
        layers=geometry.layers,
        grid=geometry.grid,
        tokens=tokens,
        tiles=tiles,
        crops=geometry.crops,
        stages=stages,
        parameters=sum(stage.parameters for stage in stages),
        weight_bytes=sum(stage.weight_bytes for stage in stages),
        cache_bytes=llm.cache_values_per_token * tokens * BYTES[settings.llm.dtype],
        flops=sum(stage.flops for stage in stages),
    )


def tower_stage(resolved: ResolvedTower, tiles: int) -> PlannedStage:
    """The tower's stage of a plan: its output's shape, parameters and cost for one picture of so many tiles."""
    geometry, shape, settings = resolved.geometry, resolved.shape, resolved.settings
    run = shape.stages[: max(geometry.layers) + 1]  # with `layers: all` the blocks behind are built but not run
    flops = 2 * tiles * geometry.crops * sum(stage.macs for stage in run)
    output = (tiles, geometry.num_tokens, geometry.hidden_size)
    size = resolved.parameters * BYTES[settings.dtype]
    return PlannedStage("tower", resolved.spec.name, output, resolved.parameters, size, flops)


def _projector_stage(settings: Config, width: int, out: int, tiles: int, tokens: int) -> PlannedStage:
    found, name, options = resolve_projector(settings.projector)
    parameters = found.spec.parameters(name, width, out, options)
    check_projector_weights(settings.projector, width, out)
    size = parameters * BYTES[settings.llm.dtype]
    return PlannedStage(
        "projector", settings.projector.type, (tiles, tokens, out), parameters, size, 2 * parameters * tiles * tokens
    )


def plan_llm(settings: Config) -> LLMShape:
    """The language model's integers, from its own config or published geometry. Raises CheckpointError without one."""
    found = registry().find(LLMSpec, settings.llm.type)
    source = locate(settings.llm.weights, settings.llm.revision, found.spec.hub_ids, offline=True)
    stated = found.spec.geometry
    geometry: Callable[[Mapping[str, Any]], LLMShape] = (
        import_object(stated, requires=found.spec.requires, owner=found.owner) if isinstance(stated, str) else stated
    )
    try:
        return geometry(source.config)
    except KeyError as error:
        raise CheckpointError(
            f"llm.weights: {settings.llm.weights} has no {error} in its config.json; it is no causal language model that "
            "`vita plan` can size"
        ) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"llm.weights: {settings.llm.weights}: `vita plan` makes nothing of its config.json ({error}); mend it"
        ) from error


def _llm_stage(settings: Config, llm: LLMShape, tokens: int) -> PlannedStage:
    size = llm.parameters * BYTES[settings.llm.dtype]
    name = settings.llm.weights.rstrip("/").rpartition("/")[2]
    return PlannedStage("llm", name, (tokens, llm.hidden_size), llm.parameters, size, 2 * llm.macs_per_token * tokens)
