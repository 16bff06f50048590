"""Experts of the blocks of a vision model, as checkpoints have them: each with weights of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Expert(nn.Module):
    """One gated MLP, with the names that Dots3's checkpoints have."""

    def __init__(self, width: int, inner: int, act: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner, bias=False, **kwargs)
        self.fc2 = nn.Linear(inner, width, bias=False, **kwargs)
        self.fc3 = nn.Linear(width, inner, bias=False, **kwargs)
        self.act = act

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.act(self.fc1(tokens)) * self.fc3(tokens))
        return output


class Experts(nn.ModuleList):
    """Takes the place of the library's experts, whose weights are joined to one tensor when it reads a checkpoint."""

    def __init__(self, joined: Any) -> None:
        like = {"device": joined.down_proj.device, "dtype": joined.down_proj.dtype}
        count, width, inner = joined.down_proj.shape
        super().__init__(Expert(width, inner, joined.act_fn, **like) for _ in range(count))

    def forward(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the sum (N, C) of the `chosen` experts (N, k) of each token (N, C), with `weights` (N, k)."""
        output = torch.zeros_like(tokens)
        for index, expert in enumerate(self):
            token, place = torch.where(chosen == index)
            if len(token):
                output.index_add_(0, token, (expert(tokens[token]) * weights[token, place, None]).to(output.dtype))
        return output


def separate_experts(model: nn.Module) -> None:
    """Replace all experts of a model that are joined."""
    for module in [*model.modules()]:
        if _is_routed(module):
            module.experts = Experts(module.experts)


def routed_matrices(module: Any) -> int:
    """Return the number of weights of joined experts and of their router that one token meets."""
    if not _is_routed(module):
        return 0
    experts = sum(weights.numel() // len(weights) for weights in module.experts.parameters())
    return int(experts * module.gate.top_k + module.gate.weight.numel())


def _is_routed(module: nn.Module) -> bool:
    return hasattr(module, "gate") and hasattr(getattr(module, "experts", None), "gate_up_proj")
