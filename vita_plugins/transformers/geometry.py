"""Build a vision model of transformers without weights, and measure its shape by one run on the meta device."""

from __future__ import annotations

import functools
import inspect
import json
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vita_core import Shape, measure
from vita_plugins.transformers.families import FAMILIES, Family
from vita_plugins.transformers.finding import model_class, vision_config
from vita_plugins.transformers.pictures import image_size
from vita_plugins.transformers.running import inputs
from vita_plugins.transformers.video import runs_as_pictures


def build(part: PreTrainedConfig, attention: str | None = None) -> tuple[PreTrainedModel, Family]:
    """Return the vision model of a config, without its pooling head, and its family.

    `attention` is the attention implementation, or None for the library's choice.
    """
    found, family = model_class(part), FAMILIES[type(part).model_type]
    assert found is not None  # vision_config() found it
    for key, value in family.settings:
        setattr(part, key, value)
    if attention is not None:
        part._attn_implementation = attention
    headless = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(found).parameters else {}
    model: PreTrainedModel = found(part, **headless)
    if family.older is not None and not hasattr(model, family.blocks):
        family = replace(family, blocks=family.older)
    top = [name for name, _ in model.named_children()]
    for name in top[top.index(family.blocks.split(".")[0]) + 1 :]:
        if name != family.norm and any(True for _ in model.get_submodule(name).parameters()):
            setattr(model, name, nn.Identity())  # a head: the run ends before it
    return model, family


def shape(config: Mapping[str, Any], options: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> Shape:
    """Return the shape of the vision model, measured by one run on the meta device."""
    size = image_size(vision_config(config), options, preprocessor)
    return measured(json.dumps(config, sort_keys=True, default=str), size)


@functools.lru_cache(maxsize=64)
def measured(config: str, size: tuple[int, int]) -> Shape:
    """Return the shape for a checkpoint config, in JSON, and pictures of that (height, width)."""
    with init_empty_weights(include_buffers=False):
        model, family = build(vision_config(json.loads(config)))
    model.eval().to("meta")
    # not made under torch.device("meta"): BEiT would cache a table of positions without values
    frames = None if family.frames is None else int(getattr(model.config, family.frames))
    one = (3, *size) if frames is None else (frames, 3, *size)
    given = inputs(family, model, torch.empty(1, *one, device="meta"))
    blocks, norm = model.get_submodule(family.blocks), final_norm(model, family)
    still = frames is None or runs_as_pictures(model.config)
    shape = measure(
        model,
        blocks,
        lambda: model(**given),
        size,
        norm=norm,
        first_layer=family.first_layer,
        frames=None if still else frames,
    )
    return replace(shape, frames=frames, steps=frames, prefix_tokens=0) if still and frames is not None else shape


def final_norm(model: nn.Module, family: Family) -> nn.Module | None:
    """Return the final norm, or None: some models have an identity or None in its place."""
    norm = None if family.norm is None else operator.attrgetter(family.norm)(model)
    return None if isinstance(norm, nn.Identity) else norm
