"""Build a projector and load its weights. Its widths are checked before weights are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from vita_core.adapters import load_adapter
from vita_core.errors import PluginError
from vita_core.loading import KeyRules, Tensors, fill, part_shapes, part_tensors, read_tensors
from vita_core.planning.projectors import ResolvedProjector, resolve_projector
from vita_core.plugins.registry import import_object
from vita_core.protocol import WordProjector

__all__ = ["build_projector", "check_buildable"]

WORD_PARTS = [part for part in (*WordProjector.__annotations__, *vars(WordProjector)) if not part.startswith("_")]


def check_buildable(resolved: ResolvedProjector) -> None:
    """Build the projector without memory, to report what its plugin refuses before any weight is read. Raises VitaError.

    Of its weights, only the headers are read: tensors that do not fit are reported too.
    """
    if resolved.out_features is None:
        return
    with torch.device("meta"):
        module = _untrained(resolved, resolved.out_features)
        shapes = None if resolved.files is None else resolved.files.shapes
        if resolved.part is not None:
            shapes = part_shapes(resolved.part)
        if shapes is not None:
            tensors = ((key, partial(torch.empty, shape)) for key, shape in shapes.items())
            _fill(module, tensors, _where(resolved), torch.float32, torch.device("meta"))


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
    module, files = _untrained(resolved, out_features), resolved.files
    if resolved.part is not None:
        _fill(module, part_tensors(resolved.part), _where(resolved), dtype, device)
    elif files is not None:
        found = ((files.own_key(key), read) for key, read in read_tensors(files.files))
        _fill(module, ((key, read) for key, read in found if key is not None), _where(resolved), dtype, device)
    module = module.to(device=device, dtype=dtype)
    if resolved.settings.adapter is not None:
        load_adapter(module, Path(resolved.settings.adapter))
    return module


def _where(resolved: ResolvedProjector) -> str:
    """Return the place of the weights for error messages."""
    if resolved.files is not None:
        return f"projector.weights: {resolved.files.where}"
    widths = f"from {resolved.in_features} to {resolved.out_features} channels"
    return f"projector {resolved.settings.type!r} {widths}: the checkpoint"


def _fill(module: nn.Module, tensors: Tensors, where: str, dtype: torch.dtype, device: torch.device) -> None:
    """Load tensors under the projector's own keys. Its attribute `renames` may map other keys to them (see `KeyRules`)."""
    fill(module, tensors, KeyRules(getattr(module, "renames", ())), dtype=dtype, device=device, where=where)
    for parameter in module.parameters():  # out of the mapped file: at another alignment, kernels round differently
        parameter.data = parameter.data.clone()
