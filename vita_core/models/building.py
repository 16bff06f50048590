"""Resolved configs and checkpoints made into models."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from vita_core.errors import ConfigError
from vita_core.language.llm import LanguageModel
from vita_core.language.projectors import build_projector, check_buildable
from vita_core.layouts.known import read_config
from vita_core.loading import part_tensors
from vita_core.models.model import VisionLanguageModel
from vita_core.pixels.anyres import read_newline
from vita_core.planning.language import ResolvedLLM
from vita_core.planning.resolution import Place, Resolved, resolve
from vita_core.plugins.registry import import_object
from vita_core.towers.devices import pick_device
from vita_core.towers.tower import build_resolved

__all__ = ["build", "build_model"]


def build_model(
    config: Place | Resolved | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    tower_weights: str | None = None,
    model_base: str | None = None,
    overrides: Sequence[str] = (),
) -> VisionLanguageModel:
    """The model of a config, or of another project's checkpoint, with its weights.

    `config` is a config object, its sections as a mapping, or anything `load_config` takes; the directory of a VITA or
    LLaVA checkpoint too, which may also be given as `checkpoint`. The other arguments are those of
    `vita_core.planning.resolution.resolve`, which checks what does not fit together before any weight is read. Raises
    VitaError.
    """
    place = checkpoint if config is None else config
    if place is None or (config is not None and checkpoint is not None):
        raise ConfigError("build_model takes either a config or a checkpoint. Try: build_model(checkpoint=DIR)")
    if checkpoint is not None:
        read_config(os.fspath(checkpoint))  # raises for a directory that holds none
    if isinstance(place, Resolved):
        return build(place)
    return build(resolve(place, overrides, tower_weights=tower_weights, model_base=model_base))


def build(resolved: Resolved) -> VisionLanguageModel:
    """The model that was resolved: each stage with its own files, or with its part of one checkpoint. Raises VitaError."""
    projector_plan, llm_plan = resolved.language("the model")
    check_buildable(projector_plan)
    device = pick_device(resolved.config.device)
    tower = build_resolved(resolved.tower, device)
    llm = _build_llm(llm_plan, device)
    projector = build_projector(projector_plan, llm.hidden_size, dtype=llm.dtype, device=device)
    newline = _newline(resolved, llm.dtype, device)
    return VisionLanguageModel(resolved, tower, projector.requires_grad_(False), llm, newline=newline).eval()


def _build_llm(resolved: ResolvedLLM, device: torch.device) -> LanguageModel:
    if resolved.part is not None:
        return LanguageModel(resolved.settings, device, resolved.part)
    spec = resolved.spec
    factory = import_object(spec.factory, requires=spec.requires, owner=resolved.owner)
    llm: LanguageModel = factory(resolved.settings, device)
    return llm


def _newline(resolved: Resolved, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """LLaVA-1.6's ``image_newline`` (D): the checkpoint's, or that of the file which the config names."""
    if resolved.checkpoint is None:
        return read_newline(resolved.config.images.anyres, dtype=dtype, device=device)
    tensors = part_tensors(resolved.checkpoint.part("newline"))
    newline = next((read() for _, read in tensors), None)
    return None if newline is None else newline.to(device=device, dtype=dtype)
