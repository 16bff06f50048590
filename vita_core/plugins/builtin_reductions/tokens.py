"""The rules of the reductions that choose tokens by what is in the picture: token merging and pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vita_core.errors import VitaError
from vita_core.plugins.reductions import ReductionSpec, Sizes

__all__ = ["PRUNE", "TOKEN_MERGING", "kept_of", "merges"]

OPTIONS = "vita_core.config.reductions"


def merges(tokens: int, options: Mapping[str, Any]) -> list[int]:
    """Return how many of `tokens` each step of ``token_merging`` merges into others: at most half of those that are left.

    Raises VitaError if more tokens are wanted than there are.
    """
    if options.get("per_block") is not None:
        most = min(options["per_block"], tokens // 2)
        return [most] if most else []
    left = options.get("tokens") or math.ceil(tokens * options["ratio"])
    if left > tokens:
        raise VitaError(f"{left} tokens are more than there are: {tokens}. Try: {tokens} or fewer")
    steps = []
    while tokens > left:
        steps.append(min(tokens - left, tokens // 2))
        tokens -= steps[-1]
    return steps


def kept_of(tokens: int, options: Mapping[str, Any]) -> int:
    """Return how many of `tokens` ``prune`` keeps, without the one that the rest becomes.

    Raises VitaError if nothing is left to prune.
    """
    kept: int = options.get("keep") or math.ceil(tokens * options["ratio"])
    if kept >= tokens:
        raise VitaError(f"{kept} tokens are to be kept, but there are {tokens}. Try: fewer, or leave the step out")
    return kept


def _merged(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    tokens = math.prod(sizes[:-1])
    return tokens - sum(merges(tokens, options)), sizes[-1]


def _merging_macs(sizes: Sizes, options: Mapping[str, Any]) -> int:
    """Each step compares every second token with the ones between."""
    tokens, macs = math.prod(sizes[:-1]), 0
    for step in merges(tokens, options):
        macs += (tokens + 1) // 2 * (tokens // 2) * sizes[-1]
        tokens -= step
    return macs


def _pruned(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    return kept_of(math.prod(sizes[:-1]), options) + (options["rest"] == "merge"), sizes[-1]


TOKEN_MERGING = ReductionSpec(
    name="token_merging",
    summary="merges the tokens that are most similar, after the encoder or inside",
    factory="vita_core.towers.reductions.merging:TokenMerging",
    sizes=_merged,
    paper="Token Merging: Your ViT But Faster (ToMe), arXiv 2210.09461",
    macs=_merging_macs,
    spatial=False,
    inside="vita_core.towers.reductions.merging:MergeInside",
    options=f"{OPTIONS}:MergingOptions",
    example={"ratio": 0.4},
)
PRUNE = ReductionSpec(
    name="prune",
    summary="keeps the tokens that CLS attends to most, after the encoder or inside",
    factory="vita_core.towers.reductions.pruning:Prune",
    sizes=_pruned,
    paper="Not All Patches are What You Need (EViT), arXiv 2202.07800",
    spatial=False,
    inside="vita_core.towers.reductions.pruning:PruneInside",
    scores=True,
    options=f"{OPTIONS}:PruneOptions",
    example={"ratio": 0.4},
)
