"""Shape of a timm encoder, by building it on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    if options.get("image_size"):
        arguments["img_size"] = options["image_size"]
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except TypeError:  # a convolutional network takes any size and has no such argument
        arguments.pop("img_size", None)
        model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise VitaError(f"timm's {name} has no forward_intermediates; pick another encoder")
    return model


def image_size(config: Mapping[str, Any], options: Mapping[str, Any], model: nn.Module) -> int:
    """Pixels on a side: the option, the checkpoint's, or timm's default for the architecture."""
    published = config.get("pretrained_cfg", {}).get("input_size") or model.pretrained_cfg["input_size"]
    return int(options.get("image_size") or published[-1])


def shape(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    """One stage per entry of timm's ``feature_info``; timm's index k is layer k + 1, and layer 0 cannot be tapped."""
    with init_empty_weights(include_buffers=True):
        model = build(config, options).eval()
    with torch.device("meta"), torch.no_grad():
        side = image_size(config, options, model)
        modules = [info["module"] for info in model.feature_info]
        with FlopCounterMode(display=False) as counter:
            maps = model.forward_intermediates(
                torch.empty(1, 3, side, side), intermediates_only=True, output_fmt="NCHW"
            )
    costs = {name.partition(".")[2]: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    behind = [key for key, _ in model.named_parameters()]
    ends = [
        max((i for i, key in enumerate(behind) if key.startswith(f"{module}.")), default=-1) + 1 for module in modules
    ]
    sizes = [parameter.numel() for parameter in model.parameters()]
    first = min((i for i, key in enumerate(behind) if key.startswith(f"{modules[0]}.")), default=0)
    stem = (
        int(maps[0].shape[1]),
        tuple(maps[0].shape[2:]),
        sum(sizes[:first]),
        costs.get("patch_embed", costs.get("stem", 0)),
    )
    stages, start = [stem], first
    for tapped, module, end in zip(maps, modules, ends, strict=True):
        stages.append((int(tapped.shape[1]), tuple(tapped.shape[2:]), sum(sizes[start:end]), costs.get(module, 0)))
        start = max(start, end)
    norm = (
        sum(p.numel() for p in model.norm.parameters()) if isinstance(getattr(model, "norm", None), nn.Module) else None
    )
    return Shape.from_stages((side, side), stages, norm, getattr(model, "num_prefix_tokens", 0), first_layer=1)
