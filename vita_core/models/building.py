"""Configs and checkpoints made into models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vita_core.config.schema import Config, load_config
from vita_core.config.validation import validate
from vita_core.errors import ConfigError
from vita_core.language.llm import LanguageModel
from vita_core.language.projectors import build_projector, check_widths
from vita_core.models.model import VisionLanguageModel
from vita_core.models.opening import Opened, is_checkpoint, is_known, open_checkpoint
from vita_core.pixels.anyres import read_newline
from vita_core.planning.resolution import resolve_tower
from vita_core.plugins.registry import import_object, registry
from vita_core.plugins.specs import LLMSpec
from vita_core.towers.tower import build_resolved
from vita_core.weights.sources import locate

__all__ = ["build_model", "pick_device"]


def pick_device(name: str) -> torch.device:
    """``auto`` is the first accelerator, else the CPU. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # on `meta`, which holds nothing, this fails too
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # torch raises each, by device
        first = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ConfigError(f"device: {name!r} cannot be used here ({first}); use auto or cpu") from error
    return device


def build_model(
    config: Config | Mapping[str, Any] | Opened | str | os.PathLike[str] | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    tower_weights: str | None = None,
    model_base: str | None = None,
    overrides: Sequence[str] = (),
) -> VisionLanguageModel:
    """The model of a config (an object, a dict, or anything `load_config` takes), or of another project's `checkpoint`.

    `checkpoint` is a directory of VITA or LLaVA (the first argument may be one too); for `tower_weights` and `model_base`
    see `vita_core.models.opening.open_checkpoint`. A config whose `llm.weights` is such a directory opens it too, with
    its own settings (``vita migrate`` writes it). `overrides` are as in `load_config`. What does not fit together is told
    before any weight is read. Raises VitaError.
    """
    if isinstance(config, str | os.PathLike) and is_checkpoint(os.fspath(config)) and checkpoint is None:
        config, checkpoint = None, config
    if (config is None) == (checkpoint is None):
        raise ConfigError("build_model takes either a config or checkpoint=DIR")
    if checkpoint is not None:
        config = open_checkpoint(
            os.fspath(checkpoint), tower_weights=tower_weights, model_base=model_base, overrides=overrides
        )
    if isinstance(config, Opened):
        return _build_opened(config)
    if isinstance(config, str | os.PathLike):
        config = load_config(config, overrides)
    settings = config if isinstance(config, Config) else validate(Config, config or {})
    if is_known(settings.llm.weights):
        return _build_opened(open_checkpoint(settings.llm.weights, config=settings))
    resolved = resolve_tower(settings.tower)
    source = locate(settings.llm.weights, settings.llm.revision)
    width = resolved.geometry.hidden_size
    if "hidden_size" in source.config:
        check_widths(settings.projector, width, int(source.config["hidden_size"]))
    device = pick_device(settings.device)
    tower = build_resolved(resolved, device)
    spec = registry().find(LLMSpec, settings.llm.type)
    factory = import_object(spec.spec.factory, requires=spec.spec.requires, owner=spec.owner)
    llm: LanguageModel = factory(settings.llm, device)
    projector = build_projector(settings.projector, width, llm.hidden_size, dtype=llm.dtype, device=device)
    newline = read_newline(settings.images.anyres, dtype=llm.dtype, device=device)
    return VisionLanguageModel(settings, tower, projector.requires_grad_(False), llm, newline=newline).eval()


def _build_opened(opened: Opened) -> VisionLanguageModel:
    """The three stages of one checkpoint, each from its own tensors; a projector trained anew goes before the old one."""
    settings = opened.config
    projected = opened.tensors("projector") if settings.projector.weights is None else None
    device = pick_device(settings.device)
    tower = build_resolved(opened.tower, device)
    llm = LanguageModel(settings.llm, device, opened.language)
    projector = build_projector(
        settings.projector,
        opened.tower.geometry.hidden_size,
        llm.hidden_size,
        dtype=llm.dtype,
        device=device,
        tensors=projected,
    )
    newline = next((read() for _, read in opened.tensors("newline")), None)
    if newline is not None:
        newline = newline.to(device=device, dtype=llm.dtype)
    model = VisionLanguageModel(settings, tower, projector.requires_grad_(False), llm, newline=newline, opened=opened)
    return model.eval()
