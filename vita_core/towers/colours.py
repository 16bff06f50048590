"""Tokens as colours: their first three principal components."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pca_colours"]


def pca_colours(tokens: Sequence[Tensor]) -> list[Tensor]:
    """Return for each tensor of tokens (N, C) their colours (N, 3) in 0..255.

    Red, green and blue are the first three principal components, which are computed over all tokens together.
    """
    flat = torch.cat([*tokens]).float()
    centred = flat - flat.mean(0)
    count = min(3, *centred.shape)
    _, _, directions = torch.pca_lowrank(centred, q=count, center=False)
    colours = torch.zeros(len(flat), 3)
    colours[:, :count] = centred @ directions[:, :count]
    low, high = colours.amin(0), colours.amax(0)
    levels = ((colours - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
    return list(levels.split([len(part) for part in tokens]))
