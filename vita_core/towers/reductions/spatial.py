"""The reductions of a grid without weights: pixel shuffle, pooling, interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vita_core.planning.geometry import Grid
from vita_core.plugins.reductions import Sizes
from vita_core.plugins.shapes import pair
from vita_core.towers import features

__all__ = ["Interpolate", "PixelShuffle", "Pool"]


class PixelShuffle(nn.Module):
    """Moves grid positions into channels; see `vita_core.towers.features.pixel_shuffle`.

    The order ``v1`` is the first one of InternVL's code, which transposes the map.
    """

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.scale_factor, self.transposed = options["scale_factor"], options["order"] == "v1"

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return tokens (B, N s^2, C / s^2) of tokens (B, N, C) for the scale factor s."""
        shuffled = features.pixel_shuffle(features.to_map(tokens, grid), self.scale_factor)
        return features.to_tokens(shuffled.transpose(1, 2) if self.transposed else shuffled)


class Pool(nn.Module):
    """Pools to a grid, adaptively where its sides do not divide those of the map, or by a window."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return the average or largest tokens (B, rows * cols, C) of the output's grid."""
        channels_first = features.to_map(tokens, grid).permute(0, 3, 1, 2)  # (B, C, rows, cols)
        if self.options["window"] is None:
            size = pair(self.options["grid"])
        else:
            down, right = pair(self.options["window"])
            size = (grid[0] // down, grid[1] // right)
        pool = F.adaptive_avg_pool2d if self.options["kind"] == "average" else F.adaptive_max_pool2d
        pooled: Tensor = pool(channels_first, size)
        return pooled.flatten(2).transpose(1, 2)


class Interpolate(nn.Module):
    """Resizes the map of tokens in float32 by ``torch.nn.functional.interpolate``, with align_corners false."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.size, self.mode = pair(options["grid"]), options["mode"]

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return tokens (B, rows * cols, C) of the output's grid."""
        return features.resized(tokens, grid, self.size, self.mode)
