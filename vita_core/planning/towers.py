"""From a tower's config to everything known of it before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config.configfiles import shipped_configs
from vita_core.config.schema import TowerConfig
from vita_core.config.validation import validate
from vita_core.errors import CheckpointError, ConfigError, PluginError, VitaError
from vita_core.layouts.parts import Part
from vita_core.planning.geometry import Geometry, tower_geometry
from vita_core.planning.options import validated_options
from vita_core.plugins.discovery import describe
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import Registered, import_object, known_towers, registry
from vita_core.plugins.specs import Shape, TowerSpec
from vita_core.weights.sources import Source, locate

__all__ = [
    "ResolvedTower",
    "named_tower",
    "resolve_tower",
]


@dataclass(frozen=True)
class ResolvedTower:
    """A tower's spec and owner, the rule that chose it, its config with the family's defaults, and its sizes.

    Its weights are the files of `source`, or `part` of a larger checkpoint.
    """

    spec: TowerSpec
    owner: Owner
    rule: str
    settings: TowerConfig
    source: Source
    shape: Shape
    geometry: Geometry
    processor: Mapping[str, Any]
    part: Part | None = None

    @property
    def parameters(self) -> int:
        """Parameters of what is built: the blocks up to the last selected one, and the final norm."""
        built = self.shape.stages[: self.geometry.blocks + 1]
        return sum(stage.parameters for stage in built) + (self.shape.norm_parameters or 0)


def resolve_tower(
    config: TowerConfig | Mapping[str, Any],
    *,
    offline: bool = False,
    source: Source | None = None,
    part: Part | None = None,
) -> ResolvedTower:
    """Choose the tower and check the config against the checkpoint's own geometry.

    With `offline`, published geometry of known hub ids stands in for asking the hub (``vita plan``). A caller that has found
    the checkpoint passes it as `source`, and as `part` where the weights lie inside a larger one. Raises ConfigError,
    PluginError or CheckpointError before any weight is read.
    """
    settings = config if isinstance(config, TowerConfig) else validate(TowerConfig, config)
    if settings.type is not None:  # a misspelled type is told before the network is asked for anything
        registry().find(TowerSpec, settings.type)
    source = source or locate(settings.weights, settings.revision, known_towers(), offline=offline)
    choice = registry().choose(settings.type, source.config, source.hub_id, settings.weights)
    spec, owner = choice.tower.spec, choice.tower.owner
    rule = f"known hub id {source.hub_id}" if source.published and settings.type is None else choice.rule
    if settings.trust_remote_code and not spec.remote_code:
        raise ConfigError(
            f"tower.trust_remote_code: tower {spec.name!r} runs no code from a checkpoint's repository, so there is "
            "nothing to trust; leave it out"
        )
    if settings.attention not in ("auto", *spec.attentions):
        choices = f"use auto, {', '.join(spec.attentions)}" if spec.attentions else "leave it out"
        raise ConfigError(
            f"tower.attention: tower {spec.name!r} cannot be built with {settings.attention!r}; {choices}"
        )
    settings = _with_defaults(settings, spec, owner)
    options = validated_options("tower", spec, owner, settings.options)
    settings = settings.model_copy(update={"options": options})
    shape = _asked(spec.shape, spec, owner, source, options)
    if not isinstance(shape, Shape):
        raise PluginError(
            f"plugin {owner.plugin} of {owner}: the shape of its tower {spec.name!r} is {shape!r}, not a Shape"
        )
    geometry = tower_geometry(settings, shape)
    processor = source.preprocessor or _asked(spec.processor, spec, owner, source, shape)
    if settings.s2 is not None:  # the largest scale is cut from real pixels, not from an upsized small picture
        processor = _resized(processor, geometry.input_size[0])
    return ResolvedTower(spec, owner, rule, settings, source, shape, geometry, processor, part)


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


def _with_defaults(settings: TowerConfig, spec: TowerSpec, owner: Owner) -> TowerConfig:
    """`settings` with the family's defaults where a key was left out. Raises PluginError for a default that cannot be."""
    defaults = {key: value for key, value in spec.defaults.items() if getattr(settings, key, None) is None}
    try:
        validate(TowerConfig, {"weights": settings.weights, **defaults})
    except ConfigError as error:
        raise PluginError(
            f"plugin {owner.plugin} of {owner}: the defaults of its tower {spec.name!r}: {error}"
        ) from error
    return settings.model_copy(update=defaults)


def _asked(function: Callable[..., Any] | str, spec: TowerSpec, owner: Owner, source: Source, *more: Any) -> Any:
    """What a spec's function makes of a checkpoint's config. Raises CheckpointError for one it makes nothing of."""
    called: Callable[..., Any] = (
        import_object(function, requires=spec.requires, owner=owner) if isinstance(function, str) else function
    )
    try:
        return called(source.config, *more)
    except KeyError as error:
        raise CheckpointError(
            f"{source.weights}: tower {spec.name!r} needs {error} of the checkpoint's config.json, which has "
            f"{', '.join(source.config) or 'nothing, or is not there'}; put the config it was published with beside it"
        ) from error
    except VitaError:
        raise
    except Exception as error:  # a patch size of 0, a width that is a text: whatever the plugin's code meets there
        raise CheckpointError(
            f"{source.weights}: tower {spec.name!r} makes nothing of its config.json ({describe(error)}); mend it, or where "
            f"it is as published, tell the author of {owner}"
        ) from error
