"""EViT (Not All Patches are What You Need, arXiv 2202.07800): only the patches that the CLS token attends to stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.plugins.builtin_reductions.tokens import kept_of
from vita_core.plugins.reductions import Sizes
from vita_core.towers.reductions.blocks import Attention, Kept

__all__ = ["Prune", "PruneInside", "prune"]


def split(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the places of the `count` highest of scores (B, N), and of the rest, each ascending."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order[:, :count].sort(-1).values, order[:, count:].sort(-1).values


def prune(tokens: Tensor, scores: Tensor, count: int, rest: str) -> tuple[Tensor, Tensor, Tensor]:
    """Keep `count` of patch tokens (B, N, C), those with the highest scores (B, N).

    With ``merge`` the rest becomes one more token behind them, the sum of its tokens times their scores. Return the tokens,
    the places of the kept, and the places of the rest.
    """
    kept, others = split(scores, count)
    chosen = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    if rest == "drop":
        return chosen, kept, others
    weights = scores.gather(1, others).to(tokens.dtype)
    left = tokens.gather(1, others[..., None].expand(-1, -1, tokens.shape[-1]))
    return torch.cat([chosen, weights[:, None] @ left], 1), kept, others


class Prune(nn.Module):
    """Prunes the tokens of an encoder's output by the attention of the CLS token in the last block that ran."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, tokens: Tensor, grid: tuple[int, ...] | None = None, *, scores: Tensor) -> Tensor:
        """Return (B, N', C) of tokens (B, N, C) with scores (B, N), the kept ones in the order of the picture."""
        count = kept_of(tokens.shape[1], self.options)
        return prune(tokens, scores, count, self.options["rest"])[0]


class PruneInside(nn.Module):
    """Prunes between the attention and the MLP of a block. CLS and registers stay as they are."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, tokens: Tensor, attention: Attention) -> Kept:
        """Prune tokens (B, T, C); see `vita_core.towers.reductions.blocks.Operation`."""
        prefix, scores = attention.prefix, attention.cls_scores()
        count, merges = kept_of(tokens.shape[1] - prefix, self.options), self.options["rest"] == "merge"
        patches, kept, others = prune(tokens[:, prefix:], scores, count, self.options["rest"])
        if merges:  # at the place of the rest's most attended token
            first = others.gather(1, scores.gather(1, others).argmax(-1, keepdim=True))
            kept = torch.cat([kept, first], 1)
        front = torch.arange(prefix, device=tokens.device).expand(len(tokens), -1)
        sizes = attention.sizes
        if sizes is not None:
            whole = sizes.gather(1, torch.cat([front, kept + prefix], 1))
            if merges:
                whole[:, -1] = sizes.gather(1, others + prefix).sum(-1)
            sizes = whole
        return Kept(torch.cat([tokens[:, :prefix], patches], 1), torch.cat([front, kept + prefix], 1), sizes)
