"""From a projector's config to everything known of it before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config.schema import ProjectorConfig
from vita_core.errors import CheckpointError
from vita_core.layouts.parts import Part
from vita_core.planning.options import validated_options
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec
from vita_core.weights.tensorfiles import reading

__all__ = ["ResolvedProjector", "resolve_projector"]


@dataclass(frozen=True)
class ResolvedProjector:
    """A projector's spec and owner, its config, and the widths that it joins.

    `name` is its type without the distribution, `options` are validated. `out_features` is None where the language model's
    config does not say its width. The weights are ``settings.weights``, or `part` of a larger checkpoint, or none yet.
    """

    spec: ProjectorSpec
    owner: Owner
    name: str
    settings: ProjectorConfig
    options: Mapping[str, Any]
    in_features: int
    out_features: int | None
    part: Part | None = None

    def parameters(self, out_features: int) -> int:
        """How many parameters it has. Raises ConfigError for widths that it cannot join."""
        return self.spec.parameters(self.name, self.in_features, out_features, self.options)


def resolve_projector(
    config: ProjectorConfig, in_features: int, out_features: int | None, part: Part | None = None
) -> ResolvedProjector:
    """Find the projector and check that it fits both widths, its saved weights by their header alone.

    Weights that the config names go before the checkpoint's own `part`: they were trained later. Raises PluginError,
    ConfigError, or CheckpointError with both widths.
    """
    found = registry().find(ProjectorSpec, config.type)
    options = validated_options("projector", found.spec, found.owner, config.options)
    name, own = config.type.rpartition("/")[2], part if config.weights is None else None
    resolved = ResolvedProjector(found.spec, found.owner, name, config, options, in_features, out_features, own)
    if out_features is not None:
        resolved.parameters(out_features)
        _check_weights(config, in_features, out_features)
    return resolved


def _check_weights(config: ProjectorConfig, in_features: int, out_features: int) -> None:
    """Whether the saved projector was trained for these widths, by its header alone. Raises CheckpointError with both."""
    if config.weights is None:
        return
    from safetensors import safe_open

    path = Path(config.weights)
    if not path.is_file():
        raise CheckpointError(f"projector.weights: no such file: {path}")
    with reading(path), safe_open(path, framework="np") as handle:
        saved = handle.metadata() or {}
    for key, now, what in (
        ("in_features", in_features, "tower gives"),
        ("out_features", out_features, "language model takes"),
    ):
        if saved.get(key, str(now)) != str(now):
            raise CheckpointError(
                f"projector.weights: {path} was trained for {key} {saved[key]}, but the {what} {now}; choose the tower "
                "settings it was trained with, or train a new one with `vita train`"
            )
