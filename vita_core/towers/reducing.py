"""Reduce the tokens of a tower, step by step, as its config says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vita_core.errors import VitaError
from vita_core.planning.geometry import Grid
from vita_core.planning.reductions import ResolvedReduction
from vita_core.plugins.registry import import_object
from vita_core.towers import features
from vita_core.towers.metadata import TowerMetadata

__all__ = ["Reducing", "build_reduction"]


def build_reduction(resolved: ResolvedReduction) -> nn.Module:
    """Build the module of a reduction, without its weights. Raises PluginError."""
    spec = resolved.spec
    factory = import_object(spec.factory, requires=spec.requires, owner=resolved.owner)
    module: nn.Module = factory(resolved.before, resolved.options)
    return module


class Reducing(TowerMetadata):
    """Runs the reductions of a tower. `reductions` are their modules, once the tower is loaded."""

    def pixel_shuffle(self, x: Tensor, scale_factor: float = 0.5, *, grid: Grid | None = None) -> Tensor:
        """Move grid positions into channels; see `vita_core.towers.features.pixel_shuffle`."""
        return features.pixel_shuffle(x, scale_factor, grid=grid)

    def load_reductions(self) -> None:
        """Build the reductions on the tower's device, in its dtype. One without weights is left as it was initialised."""
        with torch.device("cpu"):
            made = [build_reduction(step) for step in self.resolved.geometry.reductions]
        self.reductions = nn.ModuleList(made).to(device=self.device, dtype=self.dtype)

    def reduced(self, tokens: Tensor, grid: Grid, first: int = 0, last: int | None = None) -> Tensor:
        """Return tokens (B, N, C) of a grid after the reductions from number `first` to before number `last`."""
        return self.reduced_grid(tokens, grid, first, last)[0]

    def reduced_grid(
        self, tokens: Tensor, grid: Grid | None, first: int = 0, last: int | None = None
    ) -> tuple[Tensor, Grid | None]:
        """Return what `reduced` returns, and the grid, or None if a reduction leaves none.

        The grid of a video keeps its steps, (steps, rows, cols), and each step is reduced.
        """
        steps, grid = slice(first, last), None if self.resolved.geometry.inside else grid
        for resolved, module in zip(self.resolved.geometry.reductions[steps], self.reductions[steps], strict=True):
            # one that needs scores has run with the block that gives them (`OpenedBlocks.pruned`)
            tokens, grid = (tokens, None) if resolved.spec.scores else self._one_step(resolved, module, tokens, grid)
        return tokens, grid

    def _one_step(
        self, resolved: ResolvedReduction, module: Any, tokens: Tensor, grid: Grid | None
    ) -> tuple[Tensor, Grid | None]:
        times = self.shape.steps if self._each_step else 1
        place = None if grid is None or len(resolved.before) == 2 else grid[-2:]
        width = tokens.shape[-1]
        after = resolved.sizes((tokens.shape[1] // times, width) if place is None else (*place, width))
        if resolved.key == "tower.pixel_shuffle":
            output = self.pixel_shuffle(tokens, resolved.options["scale_factor"], grid=grid)
        else:
            each = tokens.reshape(len(tokens) * times, -1, width) if times > 1 else tokens
            output = module(each, place).reshape(len(tokens), -1, after[-1])
        count = times * (after[0] if len(after) == 2 else after[0] * after[1])
        if tuple(output.shape) != (len(tokens), count, after[-1]):
            raise VitaError(
                f"{resolved.key}: {resolved.spec.name!r} gives {tuple(output.shape)}, but {(len(tokens), count, after[-1])} is "
                "planned. Try: let its module and the `sizes` of its ReductionSpec agree"
            )
        return output, None if len(after) == 2 else (*(grid or ())[:-2], *after[:2])

    @property
    def _each_step(self) -> bool:
        """Whether the steps of a video are reduced one by one. A kept CLS token belongs to the whole video."""
        return self.shape.frames is not None and self.settings.select_feature in (None, "patch")
