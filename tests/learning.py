"""A small reduction that learns, as a plugin would register it: queries that attend to the tokens, and a linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vita_core import ReductionSpec, VitaError
from vita_core.config.validation import Section
from vita_core.plugins.reductions import Sizes

__all__ = ["QUERIES", "Queries"]


class Options(Section):
    queries: int = 4
    width: int = 16


class Queries(nn.Module):
    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(options["queries"], sizes[-1]))
        self.proj = nn.Linear(sizes[-1], options["width"])
        self.norm = nn.BatchNorm1d(options["width"])  # has buffers, and another train mode
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor, grid: Any) -> Tensor:
        seen = (self.query @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        output: Tensor = self.dropout(self.norm(self.proj(seen).transpose(1, 2))).transpose(1, 2)
        return output


def sizes_of(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    if options["queries"] < 1:
        raise VitaError("no queries. Try: `queries: 4`")
    return options["queries"], options["width"]


def tensors_of(sizes: Sizes, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width = (options["width"],)
    norm = {f"norm.{name}": width for name in ("weight", "bias", "running_mean", "running_var")}
    return {
        "query": (options["queries"], sizes[-1]),
        "proj.weight": (*width, sizes[-1]),
        "proj.bias": width,
        **norm,
        "norm.num_batches_tracked": (),
    }


def parameters_of(sizes: Sizes, options: Mapping[str, Any]) -> int:
    return int((options["queries"] + options["width"]) * sizes[-1] + 3 * options["width"])


QUERIES = ReductionSpec(
    name="queries",
    summary="queries that attend to the tokens",
    factory=f"{__name__}:Queries",
    sizes=sizes_of,
    paper="none",
    parameters=parameters_of,
    tensors=tensors_of,
    renames=((r"^published\.", ""),),
    skips=((r"^elsewhere\.", "not of the reduction"),),
    spatial=False,
    options=f"{__name__}:Options",
)
