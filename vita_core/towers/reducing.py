"""Reduce the tokens of a tower, step by step, as its config says."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vita_core.errors import CheckpointError, VitaError
from vita_core.loading import LoadReport, load_into
from vita_core.planning.geometry import Grid
from vita_core.planning.reduction_weights import key_rules, reduction_files, stated_in_file
from vita_core.planning.reductions import ResolvedReduction
from vita_core.plugins.registry import import_object
from vita_core.towers import features
from vita_core.towers.metadata import TowerMetadata
from vita_core.weights.files import write_whole

__all__ = ["Reducing", "build_reduction", "freeze_reductions", "load_reduction", "run_reduction", "save_reduction"]


def build_reduction(resolved: ResolvedReduction) -> nn.Module:
    """Build the module of a reduction, without its weights. Raises PluginError."""
    spec = resolved.spec
    factory = import_object(spec.factory, requires=spec.requires, owner=resolved.owner)
    module: nn.Module = factory(resolved.before, resolved.options)
    return module


def load_reduction(
    resolved: ResolvedReduction, *, dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, LoadReport | None]:
    """Build the module of a reduction and load the weights that its config names, strictly. Raises VitaError.

    Without weights, it is left as it was initialised, and there is no report.
    """
    module, report = build_reduction(resolved), None
    if resolved.settings.weights is not None:
        files, where = reduction_files(resolved), f"{resolved.key}.weights: {resolved.settings.weights}"
        report = load_into(module, files, key_rules(resolved), dtype=dtype, device=device, where=where)
        # copied: kernels round differently where a mapped file puts a tensor at another alignment
        module.load_state_dict({key: value.clone() for key, value in module.state_dict().items()}, assign=True)
    return module.to(device=device, dtype=dtype), report


def freeze_reductions(tower: nn.Module) -> None:
    """Freeze the reductions of a tower, and those of the parts of a fused tower."""
    for module in tower.modules():
        if isinstance(module, Reducing):
            module.reductions.requires_grad_(False)


def save_reduction(path: Path, resolved: ResolvedReduction, module: nn.Module) -> None:
    """Write the weights of a reduction that learned, in the dtype that they have. `load_reduction` reads them.

    Raises CheckpointError if the rules of its spec would change its own keys then.
    """
    state = {key: value.detach().to("cpu").contiguous() for key, value in module.state_dict().items()}
    rules = key_rules(resolved)
    if changed := [key for key in state if rules.changes(key)]:
        raise CheckpointError(
            f"{resolved.key}: {resolved.spec.name!r} cannot be saved: the renames or skips of its spec change {len(changed)} of "
            f"its own keys, such as {changed[0]!r}. Try: let the plugin's patterns match checkpoint keys only"
        )
    write_whole(path, lambda partial: save_file(state, partial, metadata=stated_in_file(resolved)))


def run_reduction(
    resolved: ResolvedReduction, module: Any, tokens: Tensor, grid: Grid | None, times: int = 1
) -> tuple[Tensor, Grid | None]:
    """Return tokens (B, N, C) of a grid after a reduction, and their grid, or None if it leaves none.

    The N tokens are those of `times` steps of a video, each of which is reduced. Raises VitaError if `module` gives other
    sizes than planned.
    """
    place = None if grid is None or len(resolved.before) == 2 else grid[-2:]
    width = tokens.shape[-1]
    after = resolved.sizes((tokens.shape[1] // times, width) if place is None else (*place, width))
    each = tokens.reshape(len(tokens) * times, -1, width) if times > 1 else tokens
    if (own := _own_dtype(module)) is not None:  # while it is trained it is float32, behind an encoder that may not be
        each = each.to(own)
    output, planned = module(each, place), (len(each), math.prod(after[:-1]), after[-1])
    if tuple(output.shape) != planned:
        raise VitaError(
            f"{resolved.key}: {resolved.spec.name!r} gives {tuple(output.shape)}, but {planned} is planned. "
            "Try: let its module and the `sizes` of its ReductionSpec agree"
        )
    output = output.reshape(len(tokens), times * planned[1], planned[2])
    return output, None if len(after) == 2 else (*(grid or ())[:-2], *after[:2])


def _own_dtype(module: Any) -> torch.dtype | None:
    parameter = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    return None if parameter is None else parameter.dtype


def _shuffle(tower: Reducing, factor: float, tokens: Tensor, grid: Grid) -> Tensor:
    return tower.pixel_shuffle(tokens, factor, grid=grid)


class Reducing(TowerMetadata):
    """Runs the reductions of a tower. `reductions` are their modules, once the tower is loaded.

    With `ends_before`, ``forward`` ends before the reduction of this number.
    """

    ends_before: int | None = None

    def pixel_shuffle(self, x: Tensor, scale_factor: float = 0.5, *, grid: Grid | None = None) -> Tensor:
        """Move grid positions into channels; see `vita_core.towers.features.pixel_shuffle`."""
        return features.pixel_shuffle(x, scale_factor, grid=grid)

    def load_reductions(self) -> None:
        """Build the reductions on the tower's device, in its dtype, and load the weights of those that learn.

        `reduction_reports` has the report of each one, or None if it has no weights.
        """
        device = torch.device("cpu") if self.device.type == "meta" else self.device
        with torch.device("cpu"):
            steps = self.resolved.geometry.reductions
            loaded = [load_reduction(step, dtype=self.dtype, device=device) for step in steps]
        self.reductions = nn.ModuleList(module for module, _ in loaded)
        self.reduction_reports = tuple(report for _, report in loaded)

    def reduced(
        self, tokens: Tensor, grid: Grid | None, first: int = 0, last: int | None = None
    ) -> tuple[Tensor, Grid | None]:
        """Return tokens (B, N, C) of a grid after the reductions from number `first` to before number `last`.

        The second value is their grid, or None if a reduction leaves none.

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
        if resolved.key == "tower.pixel_shuffle":  # a subclass may define its own
            module = partial(_shuffle, self, resolved.options["scale_factor"])
        return run_reduction(resolved, module, tokens, grid, self.shape.steps if self._each_step else 1)

    @property
    def _each_step(self) -> bool:
        """Whether the steps of a video are reduced one by one. A kept CLS token belongs to the whole video."""
        return self.shape.frames is not None and self.settings.select_feature in (None, "patch")
