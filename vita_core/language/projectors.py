"""Projectors: from the tower's width to the language model's. Sizes are told before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vita_core.config.schema import ProjectorConfig
from vita_core.errors import PluginError
from vita_core.loading import KeyRules, Tensors, fill, load_into
from vita_core.planning.resolution import check_projector_weights, resolve_projector
from vita_core.plugins.builtin import identity_parameters, mlp_widths
from vita_core.plugins.registry import import_object
from vita_core.protocol import WordProjector

__all__ = ["build_projector", "check_widths", "identity", "mlp"]

WORD_PARTS = [part for part in (*WordProjector.__annotations__, *vars(WordProjector)) if not part.startswith("_")]


def mlp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """(B, N, in) -> (B, N, out): linear layers with GELU between; keys as LLaVA's ``mm_projector`` (0, 2, ...)."""
    widths = mlp_widths(name, in_features, out_features, options)
    layers: list[nn.Module] = [nn.LayerNorm(in_features)] if options.get("input_norm") else []
    layers += [nn.GELU()] if options.get("input_gelu") else []
    for index, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.GELU()] * (index > 0) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)


def identity(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """(B, N, C) unchanged. Raises ConfigError when the widths differ."""
    identity_parameters(name, in_features, out_features, options)
    return nn.Identity()


def check_widths(config: ProjectorConfig, in_features: int, out_features: int) -> None:
    """Whether the projector can map these widths, and its saved weights (their header alone) were trained for them.

    Raises CheckpointError with both numbers, or what the projector itself refuses them with.
    """
    with torch.device("meta"):
        _untrained(config, in_features, out_features)
    check_projector_weights(config, in_features, out_features)


def _untrained(config: ProjectorConfig, in_features: int, out_features: int) -> nn.Module:
    found, name, options = resolve_projector(config)
    factory = import_object(found.spec.factory, requires=found.spec.requires, owner=found.owner)
    module: nn.Module = factory(name, in_features, out_features, options)
    missing = [part for part in WORD_PARTS if not hasattr(module, part)]
    if missing and len(missing) < len(WORD_PARTS):
        there = ", ".join(part for part in WORD_PARTS if part not in missing)
        raise PluginError(
            f"projector {name!r} of {found.owner} has {there} but no {', '.join(missing)}: one that learns words has all "
            "of vita_core.protocol.WordProjector, any other none of it"
        )
    return module


def build_projector(
    config: ProjectorConfig,
    in_features: int,
    out_features: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    tensors: Tensors | None = None,
) -> nn.Module:
    """The projector, with `tensors` (a part of a larger checkpoint) or the weights the config names, else untrained."""
    check_widths(config, in_features, out_features)
    module = _untrained(config, in_features, out_features)
    if tensors is not None:
        where = f"projector {config.type!r} from {in_features} to {out_features} channels: the checkpoint"
        fill(module, tensors, KeyRules(), dtype=dtype, device=device, where=where)
    elif config.weights is not None:
        load_into(module, [Path(config.weights)], KeyRules(), dtype=dtype, device=device, where=config.weights)
    return module.to(device=device, dtype=dtype)
