"""timm's NaFlex ViTs, which keep the aspect of each picture: their sizes, and their run on pictures of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.naflexvit import NaFlexVit
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_core import NativeSize


def native_size(model: nn.Module, size: tuple[int, int]) -> NativeSize | None:
    """Return the budget of an encoder that takes patches of pictures: those of a picture of `size` (height, width).

    Return None for other encoders. timm's transforms have no budget of their own in a checkpoint.
    """
    if not isinstance(model, NaFlexVit) or not model.embeds.is_linear:  # a convolution takes pictures of one size
        return None
    height, width = model.embeds.patch_size
    return NativeSize(height, size[0] // height * (size[1] // width)) if height == width else None


def intermediates(
    model: NaFlexVit, pictures: Sequence[Tensor], indices: Sequence[int]
) -> list[tuple[list[Tensor], tuple[int, int]]]:
    """Run the encoder once on pictures (3, H, W). Return the tokens (1, T, C) at timm's `indices` and the grid of each one."""
    side, channels_last = model.embeds.patch_size[0], getattr(model.embeds, "channels_last", True)
    grids = [(picture.shape[1] // side, picture.shape[2] // side) for picture in pictures]
    # keyword arguments, because timm before 1.0.28 takes no dictionary
    packed = pad_sequence([patches(picture, side, channels_last) for picture in pictures], batch_first=True)
    more = {"patch_coord": pad_sequence([positions(grid, pictures[0].device) for grid in grids], batch_first=True)}
    if len({rows * cols for rows, cols in grids}) > 1:  # without padding there is no need of a mask
        lengths = torch.tensor([rows * cols for rows, cols in grids], device=pictures[0].device)
        more["patch_valid"] = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    prefix = model.num_prefix_tokens > 0
    found = model.forward_intermediates(
        packed,
        indices=list(indices),
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        return_prefix_tokens=prefix,
        **more,
    )
    states = [torch.cat([first, tokens], dim=1) for tokens, first in found] if prefix else found
    ends = [model.num_prefix_tokens + rows * cols for rows, cols in grids]
    return [
        ([state[index : index + 1, :end] for state in states], grid)
        for index, (grid, end) in enumerate(zip(grids, ends, strict=True))
    ]


def patches(picture: Tensor, side: int, channels_last: bool) -> Tensor:
    """Return the patches (N, 3 * side * side) of a picture (3, H, W), row by row."""
    cut = picture.unflatten(1, (-1, side)).unflatten(3, (-1, side))  # (3, rows, side, cols, side)
    order = (1, 3, 2, 4, 0) if channels_last else (1, 3, 0, 2, 4)
    return cut.permute(order).flatten(0, 1).flatten(1)


def positions(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the (row, column) of each patch of a grid, row by row: (N, 2)."""
    return torch.cartesian_prod(*(torch.arange(side, device=device) for side in grid))
