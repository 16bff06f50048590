"""The shape of a timm encoder, measured by building and running it on the meta device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from accelerate import init_empty_weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vita_core import Shape, VitaError


def build(config: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """Return the encoder without weights and without its head.

    Raises VitaError for a name that timm does not know, and for an encoder that gives no intermediate features.
    """
    name = options.get("architecture") or config.get("architecture")
    if not name or not timm.is_model(name):
        raise VitaError(
            f"tower.options.architecture: timm {timm.__version__} has no model {name!r}. Try: one of timm.list_models()"
        )
    arguments = dict(config.get("model_args", {}))
    sized = {"img_size": options["image_size"]} if options.get("image_size") else {}
    # most ViTs can interpolate their positions; a CNN takes pictures of any size, but neither argument
    for extra in ({**sized, "dynamic_img_size": True}, sized, {}):
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **{**arguments, **extra})
            break
        except TypeError:
            if not extra:
                raise
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise VitaError(
            f"tower.options.architecture: timm's {name} has no forward_intermediates. Try: another encoder of timm"
        )
    return model


def input_sizes(model: nn.Module) -> Literal["any", "patches", "fixed"]:
    """Return which picture sizes the encoder takes.

    A ViT that interpolates takes whole patches, a transformer that does not takes one size, a CNN takes any size.
    """
    if getattr(model, "dynamic_img_size", False):
        return "patches"
    fixed = model.pretrained_cfg.get("fixed_input_size", False)
    return "fixed" if getattr(getattr(model, "patch_embed", None), "strict_img_size", fixed) else "any"


def image_size(config: Mapping[str, Any], options: Mapping[str, Any], model: nn.Module) -> int:
    """Return the side of the pictures in pixels: the option, the checkpoint's, or timm's default for the architecture."""
    published = config.get("pretrained_cfg", {}).get("input_size") or model.pretrained_cfg["input_size"]
    return int(options.get("image_size") or published[-1])


def shape(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    """Return a shape with one stage per entry of timm's ``feature_info``.

    timm's index k is layer k + 1. timm gives no features for layer 0.
    """
    with init_empty_weights(include_buffers=False):
        model = build(config, options).eval().to("meta")
    with torch.device("meta"), torch.no_grad():
        side = image_size(config, options, model)
        modules = [info["module"] for info in model.feature_info]
        spent: list[int] = []  # the FLOPs so far at the end of each module
        with FlopCounterMode(display=False) as counter:
            for module in modules:
                model.get_submodule(module).register_forward_hook(lambda *_: spent.append(counter.get_total_flops()))
            pixels = torch.empty(1, 3, side, side)
            maps = model.forward_intermediates(pixels, intermediates_only=True, output_fmt="NCHW")
    keys, sizes = zip(*[(key, parameter.numel()) for key, parameter in model.named_parameters()], strict=True)
    inside = [[index for index, key in enumerate(keys) if key.startswith(f"{module}.")] for module in modules]
    # parameters are in the order they run; those before the first module are the stem
    start = inside[0][0] if inside[0] else 0
    stages = [(int(maps[0].shape[1]), tuple(maps[0].shape[2:]), sum(sizes[:start]), 0)]
    before = 0
    for tapped, indices, total in zip(maps, inside, spent, strict=True):
        end = indices[-1] + 1 if indices else start
        stages.append((int(tapped.shape[1]), tuple(tapped.shape[2:]), sum(sizes[start:end]), (total - before) // 2))
        start, before = max(start, end), total
    final = getattr(model, "norm", None)
    norm = sum(p.numel() for p in final.parameters()) if isinstance(final, nn.Module) else 0
    # CaiT adds its CLS token after the blocks whose features timm gives
    tapped_too = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    prefix = getattr(model, "num_prefix_tokens", 0) if tapped_too else 0
    return Shape.from_stages((side, side), stages, norm or None, prefix, first_layer=1)
