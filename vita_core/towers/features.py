"""Pure functions on feature tensors: select, pixel shuffle, S2. Every grid is passed in; none is guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vita_core.errors import VitaError
from vita_core.planning.geometry import Grid, s2_sides
from vita_core.plugins.builtin_reductions.spatial import shuffled_grid

__all__ = ["by_step", "pixel_shuffle", "resized", "s2_features", "select_feature", "to_map", "to_tokens"]


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """Return tokens (B, N, C) as a map (B, rows, cols, C). Raises VitaError unless N is rows * cols."""
    batch, count, channels = tokens.shape
    if count != grid[0] * grid[1]:
        raise VitaError(
            f"{count} tokens do not fill a grid of {grid[0]} x {grid[1]}. Try: pass the grid that the tokens came from"
        )
    return tokens.reshape(batch, grid[0], grid[1], channels)


def to_tokens(features: Tensor) -> Tensor:
    """Return a map (B, rows, cols, C) as tokens (B, rows * cols, C), row by row."""
    return features.flatten(1, 2)


def select_feature(tokens: Tensor, kind: str, prefix_tokens: int, suffix_tokens: int = 0) -> Tensor:
    """Select from tokens (B, prefix + N + suffix, C). CLS is the first prefix token or, without any, the first suffix token.

    ``patch`` keeps the patches, ``cls`` CLS, ``cls_patch`` CLS and then the patches, without registers.
    """
    end = tokens.shape[1] - suffix_tokens
    patches, cls = tokens[:, prefix_tokens:end], 0 if prefix_tokens else end
    if kind == "patch":
        return patches
    if kind == "cls":
        return tokens[:, cls : cls + 1]
    if prefix_tokens == 1 and not suffix_tokens:
        return tokens
    return torch.cat([tokens[:, cls : cls + 1], patches], dim=1)


def pixel_shuffle(x: Tensor, scale_factor: float = 0.5, *, grid: Grid | None = None) -> Tensor:
    """Move grid positions into channels: (B, H, W, C) -> (B, H s, W s, C / s^2) for the scale factor s.

    Tokens (B, N, C) with their `grid` come back as tokens; those of a video are shuffled step by step. The order is
    InternVL's ``v2``, which VITA's checkpoints were trained with (``v1`` transposes the picture). Raises VitaError for
    tokens without a grid.
    """
    if x.ndim == 3:
        if grid is None:
            raise VitaError("pixel_shuffle: the grid of the tokens (B, N, C) is missing. Try: pass grid=(rows, cols)")
        return by_step(x, grid, lambda tokens, grid: to_tokens(pixel_shuffle(to_map(tokens, grid), scale_factor)))
    batch, height, width, channels = x.shape
    rows, cols = shuffled_grid((height, width), scale_factor)
    down, right = height // rows, width // cols
    x = x.reshape(batch, rows, down, cols, right, channels)  # (B, H s, 1/s, W s, 1/s, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, channels * down * right)


def by_step(tokens: Tensor, grid: Grid, reduce: Callable[[Tensor, Grid], Tensor]) -> Tensor:
    """Return `reduce` of tokens (B, rows * cols, C) and their grid (rows, cols), or of those of each step of a video."""
    if len(grid) == 2:
        return reduce(tokens, grid)
    steps, *one = grid
    reduced = reduce(tokens.reshape(len(tokens) * steps, -1, tokens.shape[-1]), tuple(one))
    return reduced.reshape(len(tokens), -1, reduced.shape[-1])


def resized(tokens: Tensor, grid: Grid, size: Grid, mode: str = "bilinear") -> Tensor:
    """Return tokens (B, rows * cols, C) resized to another grid in float32, by torch's `mode` with align_corners false."""
    channels_first = to_map(tokens, grid).permute(0, 3, 1, 2).float()
    return F.interpolate(channels_first, (size[0], size[1]), mode=mode).flatten(2).transpose(1, 2).to(tokens.dtype)


def s2_features(
    pixels: Tensor, scales: Sequence[int], encode: Callable[[Tensor], tuple[Tensor, Grid]]
) -> tuple[Tensor, Grid]:
    """Run Scaling on Scales (arXiv 2403.13043): (B, 3, H, W) -> (B, rows * cols, C * len(scales)) and the grid.

    For every scale, the picture is resized (float32, bicubic, no antialias) and cut row by row into crops of the first
    scale's size. `encode` maps the crops (M, 3, s, s) to tokens (M, rows * cols, C) and their grid. The tokens of a scale
    are merged into one map, which is averaged down to that grid.
    """
    batch, base, sides = pixels.shape[0], scales[0], s2_sides(scales)
    crops = []
    for side in sides:
        scaled = F.interpolate(pixels.float(), size=(side * base, side * base), mode="bicubic").to(pixels.dtype)
        # (B, 3, side, base, side, base) -> crop-major (side * side * B, 3, base, base)
        cut = scaled.reshape(batch, 3, side, base, side, base).permute(2, 4, 0, 1, 3, 5)
        crops.append(cut.reshape(side * side * batch, 3, base, base))
    encoded, grid = encode(torch.cat(crops))
    rows, cols = grid
    merged = []
    for side, tokens in zip(sides, encoded.split([len(part) for part in crops]), strict=True):
        channels = tokens.shape[-1]
        whole = tokens.reshape(side, side, batch, rows, cols, channels).permute(2, 5, 0, 3, 1, 4)
        whole = whole.reshape(batch, channels, side * rows, side * cols)
        merged.append(F.interpolate(whole.float(), size=grid, mode="area").to(tokens.dtype))
    return torch.cat(merged, dim=1).flatten(2).transpose(1, 2), grid
