"""Put the tokens of models that keep them in windows or units into rows."""

from __future__ import annotations

from torch import Tensor, nn

Grid = tuple[int, int]


def mask_units(model: nn.Module, layer: int, state: Tensor) -> Tensor:
    """Return Hiera's tokens (B, N, C) as (B, rows, cols, C), by the model's own function."""
    ordered: Tensor = model.encoder.reroll(state, max(layer - 1, 0))
    return ordered


def unwindowed(state: Tensor, side: int, grid: Grid) -> Tensor:
    """Return the tokens of side x side windows, (B * windows, prefix + tokens of a window, C), as (B, rows * cols, C)."""
    rows, cols = grid[0] // side, grid[1] // side
    windows = state[:, state.shape[1] - rows * cols :].unflatten(1, (rows, cols)).unflatten(0, (-1, side, side))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 3)
