"""Projectors that join neighbouring tokens on the channels: ``minigpt``, ``vanilla``, ``patch_merger``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vita_core.language.projectors.maps import Grid, to_map
from vita_core.plugins.builtin_projectors import four_joined, windows_merged

__all__ = ["FourJoined", "PatchMerger", "four", "patch_merger"]


class FourJoined(nn.Module):
    """VITA's ``minigpt`` and ``vanilla``: (B, N, in) -> (B, N / 4, out), without a grid.

    Four tokens that follow each other become one, by one linear layer. MiniGPT-v2 (arXiv 2310.09478) does the same. With
    `interleaved` (``vanilla``), the first channels of all four come first, then their second ones, and so on.
    """

    def __init__(self, in_features: int, out_features: int, *, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.linear = nn.Linear(4 * in_features, out_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the projected tokens. Raises ConfigError if N is not a multiple of 4."""
        fours = tokens.unflatten(1, (four_joined(1, tokens.shape[1]), 4))
        if self.interleaved:
            fours = fours.transpose(2, 3)
        return self.linear(fours.flatten(2))  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class PatchMerger(nn.Module):
    """Qwen2-VL's ``PatchMerger`` (arXiv 2409.12191): (B, rows * columns, in) -> (B, N / window**2, out), in a smaller grid.

    A LayerNorm, then the tokens of each ``window x window`` block (its rows one after the other) on the channels, then two
    linear layers with GELU between them. The tokens come row by row, not block by block as in the library.
    """

    def __init__(self, in_features: int, out_features: int, window: int) -> None:
        super().__init__()
        self.window, width = window, in_features * window**2
        self.ln_q = nn.LayerNorm(in_features, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out_features))

    def forward(self, tokens: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """Return the projected tokens. Raises ConfigError for a grid that the window does not divide."""
        normed = to_map(self.ln_q(tokens), grid)
        height, width = normed.shape[2:]
        rows, columns = windows_merged(height, width, {"spatial_merge_size": self.window})
        blocks = normed.unflatten(3, (columns, self.window)).unflatten(2, (rows, self.window))
        return self.mlp(blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))  # type: ignore[no-any-return]  # as above


def four(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``minigpt`` or ``vanilla``."""
    return FourJoined(in_features, out_features, interleaved=name == "vanilla")


def patch_merger(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``patch_merger`` with the window of ``projector.options.spatial_merge_size``."""
    return PatchMerger(in_features, out_features, options["spatial_merge_size"])
