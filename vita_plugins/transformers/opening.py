"""What tower `transformers` does with a checkpoint: one class runs models of a fixed size, another those of native resolution."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from vita_core import BaseVisionTower, ResolvedTower, Shape, VitaError, without_weights
from vita_plugins.transformers import geometry, pictures
from vita_plugins.transformers.finding import vision_config, whole_config
from vita_plugins.transformers.native import native_shape
from vita_plugins.transformers.native_tower import NativeTower
from vita_plugins.transformers.natives import NATIVES, Native
from vita_plugins.transformers.sizing import native_processor, native_size
from vita_plugins.transformers.tower import TransformersTower


def make_tower(resolved: ResolvedTower, device: torch.device | str = "cpu") -> BaseVisionTower:
    """Return the tower of a checkpoint."""
    return (TransformersTower if resolved.shape.native is None else NativeTower)(resolved, device)


def native_of(part: PreTrainedConfig) -> Native | None:
    """Return the family of a vision model of native resolution, or None for one of a fixed size."""
    return NATIVES.get(type(part).model_type)


def shape(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    preprocessor: Mapping[str, Any] | None,
    size: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> Shape:
    """Return the shape of the vision model that a ``config.json`` describes.

    It is for pictures of `size` (native resolution), or of the `image_size` that a config asks for, or videos of `frames` if the
    encoder takes any number.
    """
    part, merger = vision_config(config), bool(options.get("merger"))
    native = native_of(part)
    if merger and (native is None or not native.merger):
        raise VitaError(
            f"tower.options.merger: {type(part).model_type} has no merger of its own. Try: `tower.options.merger: false`, and "
            "`tower.pixel_shuffle` for fewer tokens"
        )
    if native is None:
        return geometry.shape(config, preprocessor, image_size, frames)
    whole = whole_config(config)
    budget = native_size(native, part, whole, preprocessor or native_processor(native, part, whole))
    return native_shape(built(geometry.as_key(config)), native, budget, size or budget.square, merger=merger)


@functools.lru_cache(maxsize=16)
def built(config: str) -> nn.Module:
    """Return the vision model for a checkpoint config, in JSON, on the meta device."""
    with without_weights():
        return geometry.build(vision_config(json.loads(config)))


def processor(config: Mapping[str, Any], shape: Shape, preprocessor: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the checkpoint's preprocessor config, or the default settings of the model's image processor in transformers."""
    part = vision_config(config)
    native = native_of(part)
    if native is None:
        return pictures.processor(config, shape, preprocessor)
    return preprocessor or native_processor(native, part, whole_config(config))
