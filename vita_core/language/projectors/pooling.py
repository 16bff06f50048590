"""Projectors that average neighbouring tokens: ``spp_v1``, ``spp_v2``, ``spp_v3``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vita_core.language.projectors.maps import Grid, to_map, to_tokens
from vita_core.plugins.builtin_projectors import halved_down

__all__ = ["SPP", "spp"]


class SPP(nn.Module):
    """VITA's ``spp_v1``, ``spp_v2`` and ``spp_v3``: (B, N, in) -> (B, rows // 2 * columns // 2, out), in a smaller grid.

    `name` says where the mean over 2 x 2 tokens stands: between the two linear layers (v1), behind both (v2), or before them
    and behind a third (v3). An odd last row or column is left out. The checkpoints of v1 and v2 hold that third layer too:
    `linear_0` is loaded and saved, but not used.
    """

    def __init__(self, in_features: int, out_features: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.linear_0 = nn.Linear(in_features, in_features).requires_grad_(name == "spp_v3")
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, tokens: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """Return the projected tokens. Raises ConfigError for a grid of one row or column."""
        if self.name == "spp_v1":
            tokens = self.linear_2(self._pooled(self.linear_1(tokens), grid))
        elif self.name == "spp_v2":
            tokens = self._pooled(self.linear_2(self.linear_1(tokens)), grid)
        else:
            tokens = self.linear_2(self.linear_1(self._pooled(self.linear_0(tokens), grid)))
        return tokens

    def _pooled(self, tokens: torch.Tensor, grid: Grid | None) -> torch.Tensor:
        features = to_map(tokens, grid)
        halved_down(*features.shape[2:])
        return to_tokens(F.avg_pool2d(features, 2))


def spp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``spp_v1``, ``spp_v2`` or ``spp_v3``."""
    return SPP(in_features, out_features, name)
