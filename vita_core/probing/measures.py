"""Measures of features: how alike two sets are, how many dimensions one uses, and how many tokens stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vita_core.errors import VitaError

__all__ = ["SINK", "cka_matrix", "linear_cka", "rank_me", "rounded", "sink_share"]

SINK = 4.0
"""A token whose norm is over this many times the median counts as an attention sink."""
SMALL = 1e-7
"""What RankMe adds to each share, as its paper does."""


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Return the linear CKA (0 to 1) of features (n, c) and (n, d) of the same n pictures, in float64.

    ``||A^T B||^2 / (||A^T A|| ||B^T B||)`` of the features with their means taken off, in Frobenius norms (arXiv 1905.00414,
    equation 5). Features without any variance give 0. It is biased upwards if n is small beside the widths. Raises VitaError
    for another shape.
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise VitaError(
            f"CKA compares features (n, c) and (n, d) of the same pictures, not {tuple(a.shape)} and {tuple(b.shape)}. "
            "Try: a row for each picture, in the same order"
        )
    first, second = (_centred(features) for features in (a, b))
    shared = (first.T @ second).square().sum()
    whole = (first.T @ first).norm() * (second.T @ second).norm()
    return float(shared / whole) if whole > 0 else 0.0


def cka_matrix(features: Sequence[Tensor]) -> list[list[float]]:
    """Return the linear CKA of each two features (n, c) of the same pictures."""
    found = [[0.0] * len(features) for _ in features]
    for row, first in enumerate(features):
        for column in range(row + 1):
            found[row][column] = found[column][row] = linear_cka(first, features[column])
    return found


def _centred(features: Tensor) -> Tensor:
    """Return features (n, c) in float64 without their mean; of more columns than rows, their coordinates (n, n)."""
    exact = features.detach().to("cpu", torch.float64)
    if not len(exact):
        return exact
    exact = exact - exact.mean(0)
    if exact.shape[1] <= len(exact):
        return exact
    corner: Tensor = torch.linalg.qr(exact.T).R  # exact = corner.T @ Q.T: the same norms from fewer numbers
    return corner.T


def rank_me(features: Tensor) -> float:
    """Return RankMe (arXiv 2210.02885) of features (n, c): the exponential of the entropy of their singular values.

    ``exp(-sum p log p)`` with ``p = s / sum(s) + 1e-7`` of the singular values s. It is near the number of directions that
    the features use, and at most the smaller of n and c: compare values of the same pictures only. Features that are all zero
    give 0.
    """
    values = torch.linalg.svdvals(features.detach().to("cpu", torch.float64))
    if not values.sum() > 0:
        return 0.0
    shares = values / values.sum() + SMALL
    return float((-(shares * shares.log()).sum()).exp())


def sink_share(norms: Tensor) -> float:
    """Return the share (0 to 1) of patch tokens, given by their norms, over 4 times the median norm.

    Such tokens are found in large encoders at places that show little; they hold no local information (arXiv 2309.16588).
    """
    exact = norms.detach().to("cpu", torch.float64).reshape(-1)
    return float((exact > SINK * exact.median()).double().mean()) if len(exact) else 0.0


def rounded(value: Any) -> Any:
    """Return plain data with all floats rounded to 6 significant digits, so that a repetition gives the same bytes."""
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
