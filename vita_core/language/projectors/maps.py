"""Between tokens (B, N, C) and maps (B, C, rows, columns), for projectors that work on the grid."""

from __future__ import annotations

from math import isqrt

import torch

from vita_core.errors import ConfigError

__all__ = ["Grid", "to_map", "to_tokens"]

Grid = tuple[int, int]
"""Rows and columns."""


def to_map(tokens: torch.Tensor, grid: Grid | None) -> torch.Tensor:
    """Return tokens (B, N, C), row by row, as a map (B, C, rows, columns). Without `grid`, the map is square.

    Raises ConfigError if N is another number.
    """
    count = tokens.shape[1]
    rows, columns = grid or (isqrt(count), isqrt(count))
    if rows * columns != count:
        raise ConfigError(
            f"the projector works on a grid, but {count} tokens do not fill {rows} x {columns}. Try: pass the tokens' "
            "`grid=(rows, columns)`"
        )
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], rows, columns)


def to_tokens(features: torch.Tensor) -> torch.Tensor:
    """Return a map (B, C, rows, columns) as tokens (B, rows * columns, C), row by row."""
    return features.flatten(2).transpose(1, 2)
