"""Tokens as colours: their first three principal components."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pca_colours"]


def pca_colours(tokens: Sequence[Tensor]) -> list[Tensor]:
    """Return for each tensor of tokens (N, C) their colours (N, 3) in 0..255, on the CPU.

    Red, green and blue are the first three principal components of all tokens together, each from its smallest to its largest
    value. They are computed in float64, and each has the sign that makes its largest weight positive: equal tokens give equal
    colours. Of fewer channels, the other colours are black.
    """
    flat = torch.cat([*tokens]).detach().to("cpu", torch.float64)
    centred = flat - flat.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    first = vectors.flip(1)[:, :3]
    largest = first.gather(0, first.abs().argmax(0, keepdim=True))
    found = centred @ (first * largest.sign())
    low, high = found.amin(0), found.amax(0)
    levels = torch.zeros(len(flat), 3, dtype=torch.uint8)
    levels[:, : found.shape[1]] = ((found - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    return list(levels.split([len(part) for part in tokens]))
