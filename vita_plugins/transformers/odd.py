"""Functions of single families: models that take more than pixels, or whose blocks give tokens in a form of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def mllama_arguments(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Return pictures (B, 3, H, W) as Mllama takes them: the first of its tiles, beside empty ones, as its processor makes them.

    Its patches attend to the empty tiles too.
    """
    tiles = pixels.new_zeros(len(pixels), 1, model.max_num_tiles, *pixels.shape[1:])
    tiles[:, 0, 0] = pixels
    mask = torch.zeros(len(pixels), 1, model.max_num_tiles, dtype=torch.long, device=pixels.device)
    mask[:, :, 0] = 1
    return {"pixel_values": tiles, "aspect_ratio_ids": torch.ones_like(mask[:, :, 0]), "aspect_ratio_mask": mask}


def mllama_tokens(model: Any, state: Tensor) -> Tensor:
    """Return the tokens of the first tile: (B, tiles * (CLS + patches + padding), C) to (B, CLS + patches, C)."""
    return state.unflatten(1, (model.max_num_tiles, -1))[:, 0, : model.num_patches]


def molmo2_arguments(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Return pictures (B, 3, H, W) as rows of patches (B, N, patch * patch * 3), the channels of a pixel together."""
    side = model.config.patch_size
    patches = pixels.unfold(2, side, side).unfold(3, side, side)  # (B, 3, rows, cols, side, side)
    return {"pixel_values": patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)}


def length_first(model: Any, state: Tensor) -> Tensor:
    """Return (T, B, C) as (B, T, C)."""
    return state.transpose(0, 1)


def mask_units(model: Any, layer: int, state: Tensor) -> Tensor:
    """Return Hiera's tokens (B, N, C) as (B, rows, cols, C), by the model's own function."""
    ordered: Tensor = model.encoder.reroll(state, max(layer - 1, 0))
    return ordered
