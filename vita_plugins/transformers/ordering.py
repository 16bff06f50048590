"""Put the hidden states of pictures into rows: maps, windows, and units of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vita_plugins.transformers.families import Family
from vita_plugins.transformers.tracing import Trace

Grid = tuple[int, int]


def in_rows(
    family: Family, model: Any, trace: Trace, layer: int, state: Tensor, grid: Grid, *, prefix: int
) -> tuple[Tensor, Grid]:
    """Return a hidden state as (B, prefix + rows * cols, C), row by row, and its grid: `grid`, or that of a map itself."""
    found = trace.layers[layer]
    if state.ndim == 4 and found.channels_last:
        return state.flatten(1, 2), (state.shape[1], state.shape[2])
    if state.ndim == 4:
        return state.flatten(2).transpose(1, 2), (state.shape[2], state.shape[3])
    if family.rows is not None:
        return family.rows(model, layer, state).flatten(1, 2), grid
    if family.windows is not None:
        return unwindowed(state, int(getattr(model.config, family.windows)), grid), grid
    extra = found.prefix - prefix  # PVT has a CLS token in its last stage alone
    return state[:, extra:] if extra > 0 else state, grid


def unwindowed(state: Tensor, side: int, grid: Grid) -> Tensor:
    """Return the tokens of side x side windows, (B * windows, prefix + tokens of a window, C), as (B, rows * cols, C)."""
    rows, cols = grid[0] // side, grid[1] // side
    windows = state[:, state.shape[1] - rows * cols :].unflatten(1, (rows, cols)).unflatten(0, (-1, side, side))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 3)
