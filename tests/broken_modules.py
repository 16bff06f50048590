"""Projectors and reductions that each break one contract, for the tests of the conformance kit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_core import ProjectorSpec, ReductionSpec, VitaError

Sizes = tuple[int, ...]


class Plain(nn.Linear):
    """Not broken: one linear layer."""

    def __init__(self, name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> None:
        super().__init__(in_features, out_features)


class LosesAToken(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, 1:])


class ColumnByColumn(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        rows = {64: 8, 48: 12, 35: 5, 576: 24, 7: 1}[tokens.shape[1]]
        return super().forward(tokens.unflatten(1, (rows, -1)).transpose(1, 2).flatten(1, 2))


class ParametersNotPlanned(Plain):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.more = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.more * super().forward(tokens)


class DividesByTheDeviation(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens / tokens.std(1, keepdim=True))


class NoGrad(Plain):
    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens)


class DetachesTokens(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.detach())


class BiasNotUsed(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight)


class DropsInEvalMode(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return F.dropout(super().forward(tokens), 0.1, training=True)


class BatchStatistics(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens - tokens.mean(0))


class NoEmptyBatch(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.reshape(len(tokens), -1, tokens.shape[-1]))


class AlwaysFloat32(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).float()


class TableNotSaved(Plain):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("table", torch.randn(self.out_features), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + self.table


def parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    return (in_features + 1) * out_features


def projector(name: str, **more: Any) -> ProjectorSpec:
    """The spec of a projector above."""
    return ProjectorSpec(name, "broken", f"broken_modules:{name}", parameters, **more)


class Halves(nn.Module):
    """Not broken: a linear layer for windows of 2 x 2 tokens."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.sizes = sizes
        self.merge = nn.Linear(4 * sizes[-1], sizes[-1], bias=False)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        rows, cols = grid
        windows = tokens.unflatten(1, (rows // 2, 2, cols // 2, 2)).transpose(2, 3)
        return self.merge(windows.flatten(3).flatten(1, 2))


class SquareRoot(Halves):
    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        side = math.isqrt(tokens.shape[1])
        return super().forward(tokens, (side, side))


class PlannedGrid(Halves):
    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().forward(tokens, self.sizes[:2])


class ScoresIgnored(Halves):
    def forward(self, tokens: Tensor, grid: tuple[int, int], scores: Tensor | None = None) -> Tensor:
        return super().forward(tokens, grid)


def halved(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    rows, cols, width = sizes
    if rows % 2 or cols % 2:
        raise VitaError(f"an odd grid: {rows} x {cols}. Try: an even one")
    return rows // 2, cols // 2, width


def merge_parameters(sizes: Sizes, options: Mapping[str, Any]) -> int:
    return 4 * sizes[-1] ** 2


def merge_macs(sizes: Sizes, options: Mapping[str, Any]) -> int:
    return sizes[0] * sizes[1] * sizes[2] ** 2


def reduction(name: str, **more: Any) -> ReductionSpec:
    """The spec of a reduction above."""
    stated: dict[str, Any] = {"parameters": merge_parameters, "macs": merge_macs, "block": lambda _: 2, **more}
    return ReductionSpec(name, "broken", f"broken_modules:{name}", halved, "", **stated)
