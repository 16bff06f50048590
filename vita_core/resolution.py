"""From a tower's config to everything known before its weights are read. No torch of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vita_core.config import TowerConfig, validate
from vita_core.errors import CheckpointError
from vita_core.geometry import Geometry, tower_geometry
from vita_core.plugins import Owner
from vita_core.registry import import_object, registry
from vita_core.sources import Source, locate
from vita_core.specs import Shape, TowerSpec

__all__ = ["ResolvedTower", "known_towers", "resolve_tower"]


@dataclass(frozen=True)
class ResolvedTower:
    """A tower's spec and owner, the rule that chose it, its config with the family's defaults, and its sizes.

    `tensors` reads its weights (see `vita_core.checkpoints.Tensors`) where they are a part of a larger checkpoint;
    otherwise `source` has them in files.
    """

    spec: TowerSpec
    owner: Owner
    rule: str
    settings: TowerConfig
    source: Source
    shape: Shape
    geometry: Geometry
    processor: Mapping[str, Any]
    tensors: Callable[[], Iterable[tuple[str, Any]]] | None = None


def known_towers() -> dict[str, Mapping[str, Any]]:
    """Every hub id whose published config a registered tower carries."""
    return {hub_id: conf for tower in registry().all(TowerSpec) for hub_id, conf in tower.spec.hub_ids.items()}


def resolve_tower(
    config: TowerConfig | Mapping[str, Any], *, offline: bool = False, source: Source | None = None
) -> ResolvedTower:
    """Choose the tower and check the config against the checkpoint's own geometry.

    With `offline`, published geometry of known hub ids stands in for asking the hub (``vita plan``). `source` stands
    for what the config's `weights` would be located as, where the caller has found it. Raises ConfigError, PluginError
    or CheckpointError before any weight is read.
    """
    settings = config if isinstance(config, TowerConfig) else validate(TowerConfig, config)
    if settings.type is not None:  # a misspelled type is told before the network is asked for anything
        registry().find(TowerSpec, settings.type)
    source = source or locate(settings.weights, settings.revision, known_towers() if offline else None)
    choice = registry().choose(settings.type, source.config, source.hub_id, settings.weights)
    spec, owner = choice.tower.spec, choice.tower.owner
    defaults = {key: value for key, value in spec.defaults.items() if getattr(settings, key) is None}
    settings = settings.model_copy(update=defaults)
    if spec.options is not None:
        model = import_object(spec.options, requires=spec.requires, owner=owner)
        options = validate(model, settings.options).model_dump()
        settings = settings.model_copy(update={"options": options})
    elif settings.options:
        raise CheckpointError(f"tower.options: tower {spec.name!r} takes no options, not {sorted(settings.options)}")
    shape = _called(spec.shape, spec, owner)(source.config, settings.options)
    geometry = tower_geometry(settings, shape)
    processor = source.preprocessor or _called(spec.processor, spec, owner)(source.config, shape)
    if settings.s2 is not None:  # the largest scale is cut from real pixels, not from an upsized small picture
        processor = _resized(processor, geometry.input_size[0])
    return ResolvedTower(spec, owner, choice.rule, settings, source, shape, geometry, processor)


def _resized(processor: Mapping[str, Any], side: int) -> dict[str, Any]:
    square = {"height": side, "width": side}
    size = {"shortest_edge": side} if "shortest_edge" in processor.get("size", {}) else square
    crop = {"crop_size": square} if "crop_size" in processor else {}
    return {**processor, "size": size, **crop}


def _called(function: Callable[..., Any] | str, spec: TowerSpec, owner: Owner) -> Callable[..., Any]:
    if isinstance(function, str):
        return import_object(function, requires=spec.requires, owner=owner)  # type: ignore[no-any-return]
    return function
