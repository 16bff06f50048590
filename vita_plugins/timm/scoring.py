"""One more layer of a timm classifier: the features of the last map, followed by the scores of the classes at each place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from vita_core import BaseVisionTower, VitaError, count_macs
from vita_plugins.timm.building import build_on_meta


def tapped(tower: BaseVisionTower) -> int:
    """Return how many layers timm gives features of: all but that of the class scores."""
    return tower.shape.layers - bool(tower.settings.options.get("class_scores"))


def classifier(model: nn.Module) -> nn.Linear:
    """Return the layer that gives the scores from the mean of the last map. Raises VitaError for encoders of another form."""
    layer = getattr(model, "classifier", None)
    if not isinstance(model, EfficientNet) or not isinstance(layer, nn.Linear):
        raise VitaError(
            f"tower.options.class_scores: timm's {type(model).__name__} is not an EfficientNet with a classifier here. Try: "
            "leave class_scores out, or another encoder such as tf_efficientnet_lite2 or mobilenetv2_100"
        )
    return layer


def scored(model: nn.Module, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return tokens (B, rows * cols, C + K) of C features and K scores, and the grid (rows, cols)."""
    last = model.forward_features(pixels)
    tokens = last.flatten(2).transpose(1, 2)
    return torch.cat([tokens, classifier(model)(tokens)], dim=-1), (last.shape[2], last.shape[3])


def stage(
    config: Mapping[str, Any], options: Mapping[str, Any], pixels: Tensor
) -> tuple[int, tuple[int, int], int, int]:
    """Return the channels and the grid of the scores' layer, and parameters and multiply-accumulates of the whole encoder."""
    model = build_on_meta(config, options)
    classifier(model)
    (tokens, grid), (macs,) = count_macs(lambda: scored(model, pixels))
    return tokens.shape[2], grid, sum(parameter.numel() for parameter in model.parameters()), macs
