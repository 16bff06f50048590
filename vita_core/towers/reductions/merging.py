"""Token Merging: Your ViT But Faster (ToMe, arXiv 2210.09461): the most similar tokens become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vita_core.plugins.builtin_reductions.tokens import merges
from vita_core.plugins.reductions import Sizes
from vita_core.towers.reductions.blocks import Attention, Kept

__all__ = ["MergeInside", "TokenMerging", "match", "merge"]


class Match(NamedTuple):
    """Which of T tokens are merged: those at `sources` (B, r) into those at `targets` (B, r). `places` (B, T - r), ascending,
    are the others."""

    sources: Tensor
    targets: Tensor
    places: Tensor


@torch.no_grad()
def match(metric: Tensor, count: int, protected: int = 0) -> Match:
    """Choose `count` pairs of tokens to merge by bipartite soft matching of a metric (B, T, D).

    Each token at an even place proposes the token at an odd place that is most similar to it (cosine), and the `count`
    most similar pairs are merged. The first `protected` tokens take no part.
    """
    unit = F.normalize(metric.float(), dim=-1)
    similar = unit[:, ::2] @ unit[:, 1::2].transpose(-1, -2)  # (B, even, odd)
    similar[:, : (protected + 1) // 2] = -torch.inf
    similar[:, :, : protected // 2] = -torch.inf
    best, odd = similar.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    even = order[:, :count]
    kept_odd = torch.arange(1, metric.shape[1], 2, device=metric.device).expand(len(metric), -1)
    places = torch.cat([2 * order[:, count:], kept_odd], -1).sort(-1).values
    return Match(2 * even, 2 * odd.gather(-1, even) + 1, places)


def merge(tokens: Tensor, chosen: Match, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, T - r, C) and sizes (B, T - r) after a merge. A merged token is the mean weighted by sizes."""
    if sizes is None:
        sizes = torch.ones(tokens.shape[:2], device=tokens.device)
    picture = torch.arange(len(tokens), device=tokens.device)[:, None]
    into = torch.searchsorted(chosen.places, chosen.targets)

    def summed(values: Tensor) -> Tensor:
        given = values[picture, chosen.sources]
        return values[picture, chosen.places].index_put((picture, into), given, accumulate=True)

    whole = summed(sizes[..., None])
    return (summed(tokens * sizes[..., None]) / whole).to(tokens.dtype), whole[..., 0]


class TokenMerging(nn.Module):
    """Merges the tokens of an encoder's output by the similarity of the tokens themselves, in steps that halve them at most."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, tokens: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Return (B, N', C) of tokens (B, N, C), in the order of the picture."""
        sizes = None
        for count in merges(tokens.shape[1], self.options):
            tokens, sizes = merge(tokens, match(tokens, count), sizes)
        return tokens


class MergeInside(nn.Module):
    """Merges tokens between the attention and the MLP of a block by the similarity of their keys."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, tokens: Tensor, attention: Attention) -> Kept:
        """Merge tokens (B, T, C); see `vita_core.towers.reductions.blocks.Operation`. CLS and registers stay as they are."""
        prefix, sizes, metric = attention.prefix, attention.sizes, attention.keys.mean(1)
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        for count in merges(tokens.shape[1] - prefix, self.options):
            chosen = match(metric, count, prefix)
            metric = merge(metric, chosen, sizes)[0]
            tokens, sizes = merge(tokens, chosen, sizes)
            places = places.gather(1, chosen.places)
        return Kept(tokens, places, sizes)
