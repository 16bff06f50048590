"""Resolve a projector: its spec, its options and its widths. Of saved weights, only the header is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config.schema import ProjectorConfig
from vita_core.errors import CheckpointError, nearest
from vita_core.layouts.parts import Part
from vita_core.planning.options import validated_options
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec
from vita_core.weights.tensorfiles import reading

__all__ = ["ResolvedProjector", "resolve_projector"]


@dataclass(frozen=True)
class ResolvedProjector:
    """A projector's spec, owner, config and widths.

    `name` is its type without the distribution. `options` are validated. `out_features` is None if the config of the
    language model does not state its width. Its weights are ``settings.weights``, or `part` of a larger checkpoint; a
    projector with neither is untrained.
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
        """Return the number of its parameters. Raises ConfigError for widths that it does not support."""
        return self.spec.parameters(self.name, self.in_features, out_features, self.options)


def resolve_projector(
    config: ProjectorConfig, in_features: int, out_features: int | None, part: Part | None = None
) -> ResolvedProjector:
    """Find the spec of a projector, and check that the projector and its saved weights fit both widths.

    Weights in the config are used instead of the checkpoint's own `part`, because they were trained later. Raises
    PluginError, ConfigError, or CheckpointError with both widths.
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
    """Raise CheckpointError if the header of the saved weights states other widths."""
    if config.weights is None:
        return
    from safetensors import safe_open

    path = Path(config.weights)
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(
            f"projector.weights: no such file: {path}.{nearest(path.name, siblings)} Try: the projector.safetensors that "
            "vita train wrote, or leave `projector.weights` out"
        )
    with reading(path), safe_open(path, framework="np") as handle:
        saved = handle.metadata() or {}
    for key, now, what in (
        ("in_features", in_features, "tower gives"),
        ("out_features", out_features, "language model takes"),
    ):
        if saved.get(key, str(now)) != str(now):
            raise CheckpointError(
                f"projector.weights: {path} was trained for {key} {saved[key]}, but the {what} {now}. Try: the settings that "
                "it was trained with, or train a new projector with `vita train CONFIG --data DATA --out DIR`"
            )
