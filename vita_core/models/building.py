"""Build models from configs and checkpoints."""

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
from vita_core.planning.reduction_weights import check_parts
from vita_core.planning.resolution import Place, Resolved, resolve
from vita_core.plugins.registry import import_object
from vita_core.towers.devices import pick_device
from vita_core.towers.reducing import freeze_reductions
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
    """Build the model of a config, or of a checkpoint of another project, and load its weights.

    `config` is a `Config`, a mapping of its sections, anything that `load_config` accepts, or the directory of a VITA or
    LLaVA checkpoint. The directory can also be passed as `checkpoint`. The other arguments are those of
    `vita_core.planning.resolution.resolve`. Raises VitaError, before any weight is read if the parts do not fit together.
    """
    place = checkpoint if config is None else config
    if place is None or (config is not None and checkpoint is not None):
        given = "neither config nor checkpoint is given" if place is None else "both config and checkpoint are given"
        raise ConfigError(f"build_model: {given}. Try: either build_model(CONFIG) or build_model(checkpoint=DIR)")
    if checkpoint is not None:
        read_config(os.fspath(checkpoint))  # raises an error for a directory without a config.json
    if isinstance(place, Resolved):
        return build(place)
    return build(resolve(place, overrides, tower_weights=tower_weights, model_base=model_base))


def build(resolved: Resolved, *, untrained: bool = False) -> VisionLanguageModel:
    """Build a resolved model. Each stage is read from its own files, or from its part of a checkpoint. Raises VitaError.

    The projector and the reductions are frozen. Raises ConfigError for a reduction that learns and has no weights, unless
    `untrained` ones are wanted. Without weights, the projector is left as it was initialised.
    """
    projector_plan, llm_plan = resolved.language("the model")
    check_buildable(projector_plan)
    device = pick_device(resolved.config.device)
    check_parts(resolved.tower)
    tower = build_resolved(resolved.tower, device, untrained=untrained)
    freeze_reductions(tower)
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
    """Return LLaVA-1.6's ``image_newline`` (D) from the checkpoint or from the file in the config, or None."""
    if resolved.checkpoint is None:
        return read_newline(resolved.config.images.anyres, dtype=dtype, device=device)
    tensors = part_tensors(resolved.checkpoint.part("newline"))
    newline = next((read() for _, read in tensors), None)
    return None if newline is None else newline.to(device=device, dtype=dtype)
