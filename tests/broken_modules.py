"""Projectors and reductions that each break one contract, for the tests of the conformance kit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_core import ProjectorSpec


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
