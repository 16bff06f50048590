"""Build a projector and load its weights. Its widths are checked before weights are read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vita_core.errors import PluginError
from vita_core.loading import KeyRules, fill, load_into, part_tensors
from vita_core.planning.projectors import ResolvedProjector, resolve_projector
from vita_core.plugins.registry import import_object
from vita_core.protocol import WordProjector

__all__ = ["build_projector", "check_buildable"]

WORD_PARTS = [part for part in (*WordProjector.__annotations__, *vars(WordProjector)) if not part.startswith("_")]


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
