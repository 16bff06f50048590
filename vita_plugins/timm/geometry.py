"""Shape of a timm encoder, by building it on the meta device."""

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
    """The encoder without weights or head. Raises VitaError for a name that timm does not know or cannot tap."""
    name = options.get("architecture") or config.get("architecture")
    if not name or not timm.is_model(name):
        raise VitaError(
            f"tower.options.architecture: timm {timm.__version__} has no model {name!r}; see timm.list_models()"
        )
    arguments = dict(config.get("model_args", {}))
    sized = {"img_size": options["image_size"]} if options.get("image_size") else {}
    # most ViTs interpolate their positions if asked to; a convolutional network takes any size and neither argument
    for extra in ({**sized, "dynamic_img_size": True}, sized, {}):
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **{**arguments, **extra})
            break
        except TypeError:
            if not extra:
                raise
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise VitaError(f"timm's {name} has no forward_intermediates; pick another encoder")
    return model


def input_sizes(model: nn.Module) -> Literal["any", "patches", "fixed"]:
    """Which sizes a timm encoder takes: a ViT that interpolates, a transformer that does not, or a CNN."""
    if getattr(model, "dynamic_img_size", False):
        return "patches"
    fixed = model.pretrained_cfg.get("fixed_input_size", False)
    return "fixed" if getattr(getattr(model, "patch_embed", None), "strict_img_size", fixed) else "any"


def image_size(config: Mapping[str, Any], options: Mapping[str, Any], model: nn.Module) -> int:
    """Pixels on a side: the option, the checkpoint's, or timm's default for the architecture."""
    published = config.get("pretrained_cfg", {}).get("input_size") or model.pretrained_cfg["input_size"]
    return int(options.get("image_size") or published[-1])


def shape(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    """One stage per entry of timm's ``feature_info``; timm's index k is layer k + 1, and layer 0 cannot be tapped."""
    with init_empty_weights(include_buffers=False):
        model = build(config, options).eval().to("meta")
    with torch.device("meta"), torch.no_grad():
        side = image_size(config, options, model)
        modules = [info["module"] for info in model.feature_info]
        spent: list[int] = []  # FLOPs when each tapped module ends
        with FlopCounterMode(display=False) as counter:
            for module in modules:
                model.get_submodule(module).register_forward_hook(lambda *_: spent.append(counter.get_total_flops()))
            pixels = torch.empty(1, 3, side, side)
            maps = model.forward_intermediates(pixels, intermediates_only=True, output_fmt="NCHW")
    keys, sizes = zip(*[(key, parameter.numel()) for key, parameter in model.named_parameters()], strict=True)
    inside = [[index for index, key in enumerate(keys) if key.startswith(f"{module}.")] for module in modules]
    # parameters stand in the order they run; what stands before the first tapped module is the stem
    start = inside[0][0] if inside[0] else 0
    stages = [(int(maps[0].shape[1]), tuple(maps[0].shape[2:]), sum(sizes[:start]), 0)]
    before = 0
    for tapped, indices, total in zip(maps, inside, spent, strict=True):
        end = indices[-1] + 1 if indices else start
        stages.append((int(tapped.shape[1]), tuple(tapped.shape[2:]), sum(sizes[start:end]), (total - before) // 2))
        start, before = max(start, end), total
    final = getattr(model, "norm", None)
    norm = sum(p.numel() for p in final.parameters()) if isinstance(final, nn.Module) else 0
    # CaiT's CLS token joins behind the blocks that can be tapped
    tapped_too = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    prefix = getattr(model, "num_prefix_tokens", 0) if tapped_too else 0
    return Shape.from_stages((side, side), stages, norm or None, prefix, first_layer=1)
