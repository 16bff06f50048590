"""A torchvision classifier as a chain of steps, and its stages, one per resolution."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from vita_core import Shape, VitaError, count_macs, without_weights

HEADS = ("classifier", "fc")
BEHIND = ("avgpool", "dropout", "flatten", *HEADS)
Steps = list[tuple[str, nn.Module]]


def architecture(config: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return torchvision's name of the model, from the options or the config.

    Raises VitaError if torchvision has no such model, or if neither names one.
    """
    name = options.get("architecture") or config.get("architecture")
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise VitaError(
            f"tower.options.architecture: {name!r} is not a classification model of torchvision. Try: one of "
            "torchvision.models.list_models(module=torchvision.models), such as mobilenet_v2 or resnet50"
        )
    return str(name)


def steps(model: nn.Module) -> Steps:
    """Return the backbone as (key prefix, module) pairs in the order they run, without the classifier."""
    chain: Steps = []
    for name, module in model.named_children():
        if name in BEHIND:
            break
        whole = name not in ("features", "trunk_output")
        chain += [(name, module)] if whole else [(f"{name}.{key}", child) for key, child in module.named_children()]
    return chain


def head(model: nn.Module) -> nn.Linear:
    """Return the linear layer of the classifier. Raises VitaError if the classifier has other layers too."""
    found = next(getattr(model, name) for name in HEADS if hasattr(model, name))
    layers = [layer for layer in found.modules() if not isinstance(layer, nn.Sequential | nn.Dropout)]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        raise VitaError(
            "tower.options.class_scores: the classifier of this architecture has more layers than one linear layer. "
            "Try: leave class_scores out, or another architecture such as mobilenet_v2"
        )
    return layers[0]


def measure(
    config: Mapping[str, Any], options: Mapping[str, Any], size: tuple[int, int] | None = None
) -> tuple[Shape, list[int]]:
    """Run the model on the meta device. Return its shape, and the index of the last step of each stage.

    `size` is (height, width) of the pictures, or None for that of the config, by default 224 x 224.
    """
    name = architecture(config, options)
    side = config.get("image_size") or 224
    size = size or (side, side)
    stages: list[tuple[int, tuple[int, int], int, int]] = []
    ends: list[int] = []
    with without_weights():
        model = torchvision.models.get_model(name, weights=None).eval().to("meta")
    with torch.device("meta"), torch.no_grad():
        x = torch.empty(1, 3, *size)
        for index, (_, module) in enumerate(steps(model)):
            try:
                x, (macs,) = count_macs(functools.partial(module, x))
            except RuntimeError as error:
                raise VitaError(
                    f"tower.options.architecture: torchvision's {name} is not a chain of convolutions. "
                    "Try: `tower.type: timm`"
                ) from error
            if x.ndim != 4:
                raise VitaError(
                    f"tower.options.architecture: torchvision's {name} gives no feature maps. Try: `tower.type: timm`"
                )
            grid = (int(x.shape[2]), int(x.shape[3]))
            parameters = sum(p.numel() for p in module.parameters())
            if stages and stages[-1][1] == grid:  # steps of one resolution are one stage
                _, _, before, macs_before = stages.pop()
                ends.pop()
                parameters, macs = parameters + before, macs + macs_before
            stages.append((int(x.shape[1]), grid, parameters, macs))
            ends.append(index)
        if options.get("class_scores"):
            linear = head(model)
            matrix = linear.in_features * linear.out_features
            channels = linear.in_features + linear.out_features
            stages.append((channels, grid, matrix + linear.out_features, grid[0] * grid[1] * matrix))
    return Shape.from_stages(size, stages), ends


def shape(config: Mapping[str, Any], options: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Shape:
    """Return a shape with one stage per resolution, and one for the class scores if the option asks for them."""
    return measure(config, options, image_size)[0]
