"""How the visual tokens of a picture are pooled to another number, and why they cannot be."""

from __future__ import annotations

import json

from vita_core.planning.resolution import Resolved

__all__ = ["Grid", "fitting", "pooled", "pooled_grid", "unpoolable"]

Grid = tuple[int, int]
"""Rows and columns of tokens."""


def fitting(grid: Grid, tokens: int) -> Grid | None:
    """Return the grid of so many tokens that fits into `grid` and is nearest to its shape, or None if none fits."""
    rows, cols = grid
    sides = [(side, tokens // side) for side in range(1, tokens + 1) if tokens % side == 0]
    found = [(down, right) for down, right in sides if down <= rows and right <= cols]
    return min(found, key=lambda side: abs(side[0] * cols - side[1] * rows), default=None)


def pooled_grid(resolved: Resolved) -> Grid | None:
    """Return the grid of a picture's tokens, or None if they cannot be pooled at all."""
    if unpoolable(resolved) is not None or resolved.config.images.most_tiles > 1:
        return None
    rows, cols = resolved.tower.geometry.grid or (0, 0)
    return rows, cols


def pooled(resolved: Resolved, tokens: int) -> str | None:
    """Return the override that pools the tower's tokens to so many, or None if they cannot be pooled so."""
    grid = pooled_grid(resolved)
    best = None if grid is None else fitting(grid, tokens)
    if best is None:
        return None
    stated = resolved.config.tower.reduce
    own = stated if isinstance(stated, list) else [] if stated is None else [stated]
    steps = [step.model_dump(mode="json", exclude_none=True) for step in own]
    return f"tower.reduce={json.dumps([*steps, {'type': 'pool', 'grid': list(best)}])}"


def unpoolable(resolved: Resolved) -> str | None:
    """Return why the tokens of a picture cannot be pooled at all, or None."""
    geometry, projector = resolved.tower.geometry, resolved.projector
    if projector is not None and projector.behind(geometry.grid, geometry.num_tokens)[1] != geometry.num_tokens:
        return f"projector {projector.name!r} changes their number"
    if resolved.tower.shape.native is not None or geometry.grid is None or len(geometry.grid) != 2:
        return "they are on no grid"
    return None if geometry.num_tokens == geometry.grid[0] * geometry.grid[1] else "they are on no grid"
