"""Run a projector: give it the grid of its tokens if it asks for that."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vita_core.planning.geometry import Grid

__all__ = ["project"]

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""What training wraps around a module. Their ``forward`` takes any argument and passes it on."""


def project(module: nn.Module, tokens: torch.Tensor, grid: Grid | None) -> torch.Tensor:
    """Return the projected tokens (B, N', D) of a tower's tokens (B, N, C), which lie row by row on `grid`.

    A module whose ``forward`` declares `grid` gets it as (rows, cols), or None if the N tokens are not those of a grid. Of
    videos, whose grid is (steps, rows, cols), it gets the tokens of each step by themselves.
    """
    own: nn.Module = module.module if isinstance(module, WRAPPERS) else module
    if not _takes_grid(type(own).forward):
        projected: torch.Tensor = module(tokens)
        return projected
    if grid is None or math.prod(grid) != tokens.shape[1]:
        return module(tokens, grid=None)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any
    *steps, rows, cols = grid
    if not steps:
        return module(tokens, grid=(rows, cols))  # type: ignore[no-any-return]  # as above
    apart = tokens.unflatten(1, (*steps, rows * cols)).flatten(0, 1)
    return module(apart, grid=(rows, cols)).unflatten(0, (len(tokens), *steps)).flatten(1, 2)  # type: ignore[no-any-return]  # as above


@functools.cache
def _takes_grid(forward: Callable[..., Any]) -> bool:
    return "grid" in inspect.signature(forward).parameters
