"""From a tower's config to everything known before its weights are read. No torch of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config import TowerConfig, shipped_configs, validate
from vita_core.errors import CheckpointError, PluginError
from vita_core.geometry import Geometry, tower_geometry
from vita_core.plugins import Owner
from vita_core.registry import Registered, import_object, registry
from vita_core.sources import Source, locate
from vita_core.specs import Shape, TowerSpec

__all__ = ["ResolvedTower", "named_tower", "resolve_tower"]


@dataclass(frozen=True)
class ResolvedTower:
    """A tower's spec and owner, the rule that chose it, its config with the family's defaults, and its sizes."""

    spec: TowerSpec
    owner: Owner
    rule: str
    settings: TowerConfig
    source: Source
    shape: Shape
    geometry: Geometry
    processor: Mapping[str, Any]


def resolve_tower(config: TowerConfig | Mapping[str, Any], *, offline: bool = False) -> ResolvedTower:
    """Choose the tower and check the config against the checkpoint's own geometry.

    With `offline`, published geometry of known hub ids stands in for asking the hub (``vita plan``). Raises
    ConfigError, PluginError or CheckpointError before any weight is read.
    """
    settings = config if isinstance(config, TowerConfig) else validate(TowerConfig, config)
    towers = registry().all(TowerSpec)
    if settings.type is not None:  # a misspelled type is told before the network is asked for anything
        registry().find(TowerSpec, settings.type)
    known = {hub_id: conf for tower in towers for hub_id, conf in tower.spec.hub_ids.items()}
    source = locate(settings.weights, settings.revision, known if offline else None)
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


def named_tower(name: str) -> Registered[TowerSpec] | None:
    """The registered tower of that name, or None where `name` means a config.

    Raises PluginError for a name that is neither, and for a tower without the example that random weights need.
    """
    if name.endswith((".yaml", ".yml")) or name in shipped_configs():
        return None
    try:
        found = registry().find(TowerSpec, name)
    except PluginError as error:
        if Path(name).expanduser().exists():
            return None
        raise PluginError(
            f"{error} A config is named by its file or directory, or one of {[*shipped_configs()]}"
        ) from None
    if found.spec.example is None:
        raise PluginError(
            f"tower {name!r} of {found.owner} has no example to make random weights from. Set TowerSpec(example={{...}}), a "
            f"small checkpoint config as its shape function takes it, or check a config with weights: vita check my.yaml"
        )
    return found


def _resized(processor: Mapping[str, Any], side: int) -> dict[str, Any]:
    square = {"height": side, "width": side}
    size = {"shortest_edge": side} if "shortest_edge" in processor.get("size", {}) else square
    crop = {"crop_size": square} if "crop_size" in processor else {}
    return {**processor, "size": size, **crop}


def _called(function: Callable[..., Any] | str, spec: TowerSpec, owner: Owner) -> Callable[..., Any]:
    if isinstance(function, str):
        return import_object(function, requires=spec.requires, owner=owner)  # type: ignore[no-any-return]
    return function
