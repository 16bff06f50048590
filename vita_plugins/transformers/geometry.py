"""Build a vision model of transformers without weights, and measure its shape by one run on the meta device."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vita_core import NoBlock, Shape, VitaError, height_width, parameter_count, without_weights
from vita_plugins.transformers.families import FAMILIES, USUAL, Family
from vita_plugins.transformers.finding import model_class, vision_config
from vita_plugins.transformers.pictures import stated_size
from vita_plugins.transformers.running import first_argument, inputs, interpolates
from vita_plugins.transformers.tracing import Trace, inside, trace
from vita_plugins.transformers.video import runs_as_pictures


def family_of(part: PreTrainedConfig) -> Family:
    """Return what is known about the vision model of a config."""
    return FAMILIES.get(type(part).model_type, USUAL)


def input_sizes(part: PreTrainedConfig) -> str:
    """Return which picture sizes the model of a config takes, as `BaseVisionTower.input_sizes`."""
    found = model_class(part)
    if getattr(part, "is_native", False):  # AIMv2 with positions that are computed
        return "patches"
    return family_of(part).sizes or ("patches" if found is not None and interpolates(found) else "fixed")


def build(part: PreTrainedConfig, attention: str | None = None) -> PreTrainedModel:
    """Return the vision model of a config, if possible without its pooling head.

    `attention` is the attention implementation, or None for the library's choice.
    """
    found = model_class(part)
    assert found is not None  # vision_config() found it
    for key, value in family_of(part).settings:
        setattr(part, key, value)
    if attention is not None:
        part._attn_implementation = attention
    headless = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(found).parameters else {}
    model: PreTrainedModel = found(part, **headless)
    inner = family_of(part).inner
    return model if inner is None else getattr(model, inner)


def remove(
    model: nn.Module, traced: Trace, layer: int, unwanted: Callable[[str], bool], reason: str
) -> list[tuple[str, str]]:
    """Remove the parts of a model whose modules are all unwanted. The run ends at `layer`.

    `unwanted` takes the path of a module with parameters or buffers of its own. Returns what `BaseVisionTower.skips` needs to
    skip the tensors of these parts for that `reason`.
    """
    paths: list[str] = []
    end = traced.layers[layer].path

    def visit(path: str, module: nn.Module) -> None:
        own = [one for one in traced.steps if inside(one, path)]
        on_the_way = isinstance(module, nn.ModuleList) or (path != end and inside(end, path))
        if own and not on_the_way and all(unwanted(one) for one in own):
            model.set_submodule(path, NoBlock())
            paths.append(path)
            return
        for name, child in module.named_children():
            visit(f"{path}.{name}", child)

    for name, child in list(model.named_children()):
        visit(name, child)
    return [(rf"^(?:{'|'.join(map(re.escape, paths))})\.", reason)] if paths else []


def check_norm(shape: Shape, layers: Iterable[int]) -> None:
    """Raise VitaError if the final norm does not fit each of the selected `layers`, for ``norm: true``."""
    if any(shape.stages[layer].channels != shape.stages[-1].channels for layer in layers):
        raise VitaError(
            f"tower.norm: the encoder's final norm fits only layer {shape.layers}, the last, not {sorted(layers)}. "
            f"Try: `tower.select_layer: {shape.layers}` or `tower.norm: false`"
        )


def shape(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any] | None,
    image_size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> Shape:
    """Return the shape of the vision model, measured by one run on the meta device.

    `frames` is the number of frames of a video. Encoders whose positions in time are fixed keep their own number.
    Raises VitaError for an `image_size` that the model does not take.
    """
    part = vision_config(config)
    family = family_of(part)
    if frames is not None and family.any_frames and frames % part.tubelet_size == 0:
        config = {**config, str(family.frames): frames}
    if family.given is None and family.inner is None and (found := model_class(part)) is not None:
        first_argument(found)  # if it needs more than pixels, no size helps
    size, stated = stated_size(part, image_size, preprocessor)
    own = height_width(getattr(part, "image_size", getattr(part, "crop_size", None)))  # the latter is V-JEPA 2's
    if own is not None and image_size not in (None, own) and input_sizes(part) == "fixed":
        raise VitaError(
            f"tower.image_size: the model of model_type {part.model_type!r} in transformers does not interpolate its "
            f"positions. Try: `tower.image_size: null`, for {own[0]} x {own[1]}"
        )
    return replace(measured(as_key(config), size)[0], size_from=stated)


def as_key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=str)


@functools.lru_cache(maxsize=64)
def measured(config: str, size: tuple[int, int]) -> tuple[Shape, Trace]:
    """Return the shape and the layers for a checkpoint config, in JSON, and pictures of that (height, width)."""
    part = vision_config(json.loads(config))
    with without_weights():
        model = build(part)
    model.eval().to("meta")
    family = family_of(part)
    frames = None if family.frames is None else int(getattr(model.config, family.frames))
    still = frames is None or runs_as_pictures(model.config)
    pixels = torch.empty(1, *(3, *size) if frames is None else (frames, 3, *size), device="meta")
    with without_weights():  # BEiT computes its table of positions when it runs
        traced = trace(model, family, inputs(family, model, pixels), pixels, still=still)
    parameters = [0] * (len(traced.layers) + 1)
    for path, step in traced.steps.items():
        if traced.norm is None or not inside(path, traced.norm):
            parameters[step] += sum(one.numel() for one in model.get_submodule(path).parameters(recurse=False))
    flops = [0, *(layer.flops for layer in traced.layers)]
    stages = [
        (layer.channels, layer.grid, count, (after - before) // 2)
        for layer, count, (before, after) in zip(traced.layers, parameters, pairwise(flops), strict=False)
    ]
    norm = None if traced.norm is None else parameter_count(model.get_submodule(traced.norm))
    prefix = 0 if family.windows else min(layer.prefix for layer in traced.layers[traced.first_layer :])
    suffix = family.suffix_of(model.config, size)
    shape = replace(Shape.from_stages(size, stages, norm, prefix, traced.first_layer), suffix_tokens=suffix)
    if frames is None:
        return shape, traced
    if still:
        return replace(shape, frames=frames, steps=frames, prefix_tokens=0), traced
    return replace(shape, frames=frames, steps=traced.layers[0].steps), traced


def grid_of(config: Mapping[str, Any], own: Shape, size: tuple[int, int], layer: int) -> tuple[int, int]:
    """Return the grid (rows, cols) of a layer for pictures of any `size` (height, width) that the encoder takes.

    `own` is the shape for the size of the checkpoint with that `config`.
    """
    if size != own.image_size and own.stages[0].grid != own.stages[-1].grid:  # a stage's grid may be rounded up
        return measured(as_key(config), size)[0].stages[layer].grid
    rows, cols = own.stages[layer].grid
    return size[0] * rows // own.image_size[0], size[1] * cols // own.image_size[1]
