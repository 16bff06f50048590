"""Positions on a grid: fixed sines and cosines, and a table resized to another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["resized", "sincos"]


def sincos(grid: tuple[int, int], width: int) -> Tensor:
    """Return fixed positions (rows * cols, width): sines and cosines of the column, then of the row, a quarter of them each."""
    rows, cols = grid
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [torch.arange(side, dtype=torch.float64)[:, None] * frequencies for side in (cols, rows)]
    by_col, by_row = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in angles)
    return torch.cat([by_col.repeat(rows, 1), by_row.repeat_interleave(cols, dim=0)], dim=1).float()


def resized(table: Tensor, trained: tuple[int, int], grid: tuple[int, ...]) -> Tensor:
    """Return a table (rows * cols, C) of the grid `trained` at another `grid`: bicubic, in float32, without antialias."""
    if trained == tuple(grid):
        return table
    channels_first = table.float().reshape(1, *trained, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, tuple(grid), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T.to(table.dtype)
