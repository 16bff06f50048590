"""Run a timm encoder by its method ``forward_intermediates``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from vita_plugins.timm.scoring import scored


def hidden_states(
    model: nn.Module, pixels: Tensor, layers: Sequence[int], *, prefix: bool
) -> tuple[dict[int, Tensor], tuple[int, int]]:
    """Return the tokens (B, T, C) of each layer, with the prefix tokens if timm gives them, and the grid (rows, cols).

    timm's index k is layer k + 1. The layer after timm's is that of an EfficientNet's class scores.
    """
    inside = [layer for layer in layers if not isinstance(model, EfficientNet) or layer <= len(model.feature_info)]
    kept, grid = _tapped(model, pixels, inside, prefix=prefix) if inside else ({}, (0, 0))
    for layer in layers[len(inside) :]:
        kept[layer], grid = scored(model, pixels)
    return kept, grid


def _tapped(
    model: nn.Module, pixels: Tensor, layers: Sequence[int], *, prefix: bool
) -> tuple[dict[int, Tensor], tuple[int, int]]:
    more = {"return_prefix_tokens": True} if prefix else {}
    indices = [layer - 1 for layer in layers]
    maps = model.forward_intermediates(
        pixels, indices=indices, stop_early=True, intermediates_only=True, output_fmt="NCHW", **more
    )
    kept, grid = {}, (0, 0)
    for layer, tapped in zip(layers, maps, strict=True):
        spatial, first = tapped if prefix else (tapped, None)
        grid = (spatial.shape[2], spatial.shape[3])
        tokens = spatial.flatten(2).transpose(1, 2)  # (B, rows * cols, C)
        kept[layer] = tokens if first is None else torch.cat([first, tokens], dim=1)
    return kept, grid
