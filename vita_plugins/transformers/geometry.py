"""Build a vision model of transformers without weights, and measure its shape by one run on the meta device."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from vita_core import Shape, VitaError
from vita_plugins.transformers.families import FAMILIES, Family
from vita_plugins.transformers.finding import model_class, vision_config
from vita_plugins.transformers.pictures import image_size
from vita_plugins.transformers.running import inputs, watch


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
    """Return the shape for a checkpoint config, in JSON, and pictures of that (height, width).

    The patch grid is that of the first convolution. The prefix tokens are the tokens that the grid does not account for.
    """
    with init_empty_weights(include_buffers=False):
        model, family = build(vision_config(json.loads(config)))
    model.eval().to("meta")
    patch_grid, states, flops = measure(model, family, size)
    prefix = 0 if states[0].ndim == 4 else states[0].shape[1] - patch_grid[0] * patch_grid[1]
    stages = []
    for state, parameters, macs in zip(states, parameter_counts(model, family), flops, strict=True):
        grid = tuple(state.shape[-2:]) if state.ndim == 4 else patch_grid
        if prefix < 0 or (state.ndim == 3 and state.shape[1] != prefix + grid[0] * grid[1]):
            raise VitaError(
                f"{type(model).__name__} of transformers: features of shape {tuple(state.shape)} do not fit a grid of {grid}. "
                "Try: report this to the authors of vita-core"
            )
        stages.append((state.shape[1 if state.ndim == 4 else 2], grid, parameters, macs))
    norm = final_norm(model, family)
    norm_parameters = None if norm is None else sum(parameter.numel() for parameter in norm.parameters())
    return Shape.from_stages(size, stages, norm_parameters, prefix, family.first_layer)


def measure(model: nn.Module, family: Family, size: tuple[int, int]) -> tuple[tuple[int, int], list[Tensor], list[int]]:
    """Run a model on the meta device. Return the patch grid, and the features and multiply-accumulates of each layer."""
    blocks = model.get_submodule(family.blocks)
    counter = FlopCounterMode(display=False)
    grids: list[tuple[int, int]] = []
    states: list[Tensor] = []
    spent = [0]

    def reached(state: Tensor) -> None:
        states.append(state)
        spent.append(counter.get_total_flops())

    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    stem.register_forward_hook(lambda _, args, output: grids.append((output.shape[-2], output.shape[-1])))
    for layer in range(len(blocks) + 1):
        watch(blocks, layer, reached)
    with (
        torch.no_grad(),
        counter,
    ):  # not under torch.device("meta"): BEiT would cache a table of positions without values
        model(**inputs(family, model, torch.empty(1, 3, *size, device="meta")))
    return grids[0], states, [(end - start) // 2 for start, end in pairwise(spent)]


def final_norm(model: nn.Module, family: Family) -> nn.Module | None:
    """Return the final norm, or None: some models have an identity in its place."""
    norm = None if family.norm is None else model.get_submodule(family.norm)
    return None if isinstance(norm, nn.Identity) else norm


def parameter_counts(model: nn.Module, family: Family) -> list[int]:
    """Return the number of parameters before the first block, and in each block."""
    blocks = model.get_submodule(family.blocks)
    inside = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    norm = final_norm(model, family)
    others = sum(inside) + (0 if norm is None else sum(parameter.numel() for parameter in norm.parameters()))
    return [sum(parameter.numel() for parameter in model.parameters()) - others, *inside]
