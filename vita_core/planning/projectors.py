"""Resolve a projector: its spec, its options and its widths. Of saved weights, only the header is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vita_core.config.schema import ProjectorConfig
from vita_core.errors import CheckpointError
from vita_core.layouts.parts import Part
from vita_core.planning.options import validated_options
from vita_core.planning.projector_files import ProjectorFiles, Widths, counts, projector_files, trained_widths
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec

__all__ = ["ResolvedProjector", "resolve_projector"]


@dataclass(frozen=True)
class ResolvedProjector:
    """A projector's spec, owner, config and widths.

    `name` is its type without the distribution. `options` are validated. `out_features` is None if the config of the
    language model does not state its width. Its weights are `files`, which the config names, or `part` of a larger
    checkpoint; a projector with neither is untrained.
    """

    spec: ProjectorSpec
    owner: Owner
    name: str
    settings: ProjectorConfig
    options: Mapping[str, Any]
    in_features: int
    out_features: int | None
    part: Part | None = None
    files: ProjectorFiles | None = None

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
    options = validated_options("projector.options", found.spec, found.owner, config.options)
    files = None if config.weights is None else projector_files(config.weights)
    name, own = config.type.rpartition("/")[2], part if files is None else None
    resolved = ResolvedProjector(found.spec, found.owner, name, config, options, in_features, out_features, own, files)
    if out_features is not None:
        resolved.parameters(out_features)
        _check_widths(resolved, out_features)
    return resolved


def _check_widths(resolved: ResolvedProjector, out_features: int) -> None:
    """Raise CheckpointError if the header of the saved weights shows other widths, or another projector of these widths."""
    files, widths = resolved.files, (resolved.in_features, out_features)
    if files is None:
        return
    spec, name, options = resolved.spec, resolved.name, resolved.options
    trained = trained_widths(files, widths, lambda a, b: spec.parameters(name, a, b, options))
    if trained != widths and not files.stated and (others := _others(files, widths)):
        raise CheckpointError(
            f"projector.weights: {files.where} has the tensors of another projector than projector.type: {name!r}. "
            f"Try: {' or '.join(f'`projector.type: {other}`' for other in others)}"
        )
    words = ("in_features {}, but the tower gives {}", "out_features {}, but the language model takes {}")
    pairs = zip(words, trained or widths, widths, strict=True)
    if wrong := [text.format(before, now) for text, before, now in pairs if before != now]:
        raise CheckpointError(
            f"projector.weights: {files.where} was trained for {', and for '.join(wrong)}. Try: the settings that "
            "it was trained with, or train a new projector with `vita train CONFIG --data DATA --out DIR`"
        )


def _others(files: ProjectorFiles, widths: Widths) -> list[str]:
    """Return the types of the projectors that have, without options, as many parameters as the files."""
    types = [(name, found.spec) for found in registry().all(ProjectorSpec) for name in _types(found.spec)]
    return [name for name, spec in types if counts(files, widths, partial(_parameters, spec, name))]


def _parameters(spec: ProjectorSpec, name: str, in_features: int, out_features: int) -> int:
    return spec.parameters(name, in_features, out_features, {})


def _types(spec: ProjectorSpec) -> list[str]:
    """Return the types that select a spec; for a pattern, those of MLPs as deep as people train them."""
    if spec.pattern is None:
        return [spec.name]
    return [name for depth in range(1, 5) if re.fullmatch(spec.pattern, name := f"mlp{depth}x_gelu")]
