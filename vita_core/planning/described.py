"""Choose the tower of a checkpoint, and which of its config files describes it, or the model of a name."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

from vita_core.config.configfiles import shipped_configs
from vita_core.config.schema import TowerConfig
from vita_core.errors import CheckpointError, PluginError
from vita_core.plugins.registry import Choice, Registered, import_object, known_towers, registry
from vita_core.plugins.specs import TowerSpec
from vita_core.weights.sources import CONFIG_FILES, Source, is_path, locate

__all__ = ["choose_tower", "located", "named_source", "named_tower", "random_weights"]

FIRST, SECOND = CONFIG_FILES


def choose_tower(settings: TowerConfig, source: Source) -> tuple[Choice, Source]:
    """Choose the tower of a checkpoint. Return it, and the checkpoint with the config that describes it.

    A checkpoint may have a ``config.json`` beside an ``open_clip_config.json``. The first one counts, unless `settings`
    name a tower that reads the second, no tower opens the first, or the directory has no weights for the tower that does.
    Raises PluginError as `Registry.choose` says.
    """
    if settings.type is not None:
        named = registry().find(TowerSpec, settings.type).spec
        second = named.config_file != FIRST and not source.published  # a published config needs no hub
        own = source.described_by(named.config_file) if second else None
        return _choose(settings.type, own or source), own or source
    try:
        choice = _choose(None, source)
    except PluginError as error:
        try:
            other, reason = source.described_by(SECOND), f"no tower opens its {FIRST}"
        except CheckpointError:  # a hub that cannot be reached
            raise error from None
        if other is None:
            raise
    else:
        if not _lacks_weights(source, choice.tower.spec):
            return choice, source
        other, reason = source.described_by(SECOND), f"it has no weights for tower {choice.tower.spec.name!r}"
        if other is None:
            return choice, source
    return replace(_choose(None, other), rule=f"its {SECOND}, because {reason}"), other


def _choose(type_name: str | None, source: Source) -> Choice:
    return registry().choose(type_name, source.config, source.hub_id, source.weights)


def _lacks_weights(source: Source, spec: TowerSpec) -> bool:
    """Return whether a local directory holds no weight file for a tower. A hub is not asked."""
    if source.path is None or not source.path.is_dir():
        return False
    names = [entry.name for entry in source.path.iterdir()]
    return not any(fnmatch.filter(names, pattern) for pattern in spec.weight_files)


def random_weights(settings: TowerConfig) -> bool:
    """Return whether the tower gets random weights: only if its options say so."""
    named = registry().find(TowerSpec, settings.type) if settings.type is not None else None
    return settings.options.get("pretrained") is False and named is not None and named.spec.random is not None


def named_source(settings: TowerConfig) -> Source:
    """Return the config of the model that `weights` names, without files. Raises CheckpointError for an unknown name."""
    named = registry().find(TowerSpec, str(settings.type))
    asked = import_object(str(named.spec.random), requires=named.spec.requires, owner=named.owner)
    weights = str(settings.weights)
    config = asked(weights)
    if config is None:
        raise CheckpointError(
            f"weights: not the name of a model of tower {settings.type!r}: {weights!r}. Random weights need one. "
            "Try: correct it, or leave `tower.options.pretrained` out to load a checkpoint"
        )
    return Source(weights, None, None, None, config, None)


def located(settings: TowerConfig, *, offline: bool) -> Source:
    """Find the checkpoint of a tower. Raises CheckpointError if there is none, with advice if `weights` is a model's name."""
    if random_weights(settings):
        return named_source(settings)
    weights = str(settings.weights)
    try:
        return locate(weights, settings.revision, known_towers(), offline=offline)
    except CheckpointError as error:
        named = registry().find(TowerSpec, settings.type) if settings.type is not None else None
        if named is None or named.spec.names is None or is_path(weights) or "/" in weights:
            raise
        asked = import_object(named.spec.names, requires=named.spec.requires, owner=named.owner)
        advice = asked(weights)
        if advice is None:
            raise
        wrong = f"weights: the name of a model, not its weights: {weights!r}"
        raise CheckpointError(f"{wrong}. Try: {advice}") from error


def named_tower(name: str) -> Registered[TowerSpec] | None:
    """Return the registered tower called `name`, or None if `name` is a config.

    Raises PluginError for a name that is neither, and for a tower without an `example` to make random weights from.
    """
    if name.endswith((".yaml", ".yml")) or name in shipped_configs():
        return None
    try:
        found = registry().find(TowerSpec, name)
    except PluginError as error:
        if Path(name).expanduser().exists():
            return None
        raise PluginError(
            f"{error}, or a config: a YAML file, a directory, or one of {', '.join(shipped_configs())}"
        ) from None
    if found.spec.example is None:
        raise PluginError(
            f"tower {name!r} of {found.owner} has no example to make random weights from. Try: `vita check CONFIG` with a "
            "config that has weights, or set TowerSpec(example=...) to a small checkpoint config"
        )
    return found
