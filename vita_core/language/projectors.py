"""Projectors map tokens from the tower's width to the language model's. Widths are checked before weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vita_core.errors import PluginError
from vita_core.loading import KeyRules, fill, load_into, part_tensors
from vita_core.planning.projectors import ResolvedProjector, resolve_projector
from vita_core.plugins.builtin import identity_parameters, mlp_widths
from vita_core.plugins.registry import import_object
from vita_core.protocol import WordProjector

__all__ = ["build_projector", "check_buildable", "identity", "mlp"]

WORD_PARTS = [part for part in (*WordProjector.__annotations__, *vars(WordProjector)) if not part.startswith("_")]


def mlp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return linear layers with GELU between them: (B, N, in) -> (B, N, out).

    The keys are those of LLaVA's ``mm_projector`` (0, 2, ...).
    """
    widths = mlp_widths(name, in_features, out_features, options)
    epsilon = options.get("norm_eps", 1e-5)
    layers: list[nn.Module] = [nn.LayerNorm(in_features, eps=epsilon)] if options.get("input_norm") else []
    layers += [nn.GELU()] if options.get("input_gelu") else []
    for index, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.GELU()] * (index > 0) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)


def identity(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a projector that leaves tokens (B, N, C) unchanged. Raises ConfigError if the widths differ."""
    identity_parameters(name, in_features, out_features, options)
    return nn.Identity()


def check_buildable(resolved: ResolvedProjector) -> None:
    """Build the projector without memory, to report what its plugin refuses before any weight is read. Raises VitaError."""
    if resolved.out_features is not None:
        with torch.device("meta"):
            _untrained(resolved, resolved.out_features)


def _untrained(resolved: ResolvedProjector, out_features: int) -> nn.Module:
    spec, owner = resolved.spec, resolved.owner
    factory = import_object(spec.factory, requires=spec.requires, owner=owner)
    module: nn.Module = factory(resolved.name, resolved.in_features, out_features, resolved.options)
    missing = [part for part in WORD_PARTS if not hasattr(module, part)]
    if missing and len(missing) < len(WORD_PARTS):
        there = ", ".join(part for part in WORD_PARTS if part not in missing)
        raise PluginError(
            f"projector {resolved.name!r} of {owner} has {there} but no {', '.join(missing)}. Try: define every member of "
            "vita_core.protocol.WordProjector, or none of them"
        )
    return module


def build_projector(
    resolved: ResolvedProjector, out_features: int, *, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Build the projector, and load its part of a larger checkpoint, or else the weights that its config names, if any.

    `out_features` is the width of the loaded language model. Raises VitaError.
    """
    resolved = resolve_projector(resolved.settings, resolved.in_features, out_features, resolved.part)
    module, settings = _untrained(resolved, out_features), resolved.settings
    if resolved.part is not None:
        where = f"projector {settings.type!r} from {resolved.in_features} to {out_features} channels: the checkpoint"
        fill(module, part_tensors(resolved.part), KeyRules(), dtype=dtype, device=device, where=where)
    elif settings.weights is not None:
        load_into(module, [Path(settings.weights)], KeyRules(), dtype=dtype, device=device, where=settings.weights)
    return module.to(device=device, dtype=dtype)
