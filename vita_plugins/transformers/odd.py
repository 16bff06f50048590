"""Functions of single families: models that take more than pixels, or whose blocks give tokens in a form of their own."""

from __future__ import annotations

import math
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


def mllama_tokens(model: Any, path: str, state: Tensor) -> Tensor:
    """Return the tokens of the first tile: (B, tiles * (CLS + patches + padding), C) to (B, CLS + patches, C)."""
    return state.unflatten(1, (model.max_num_tiles, -1))[:, 0, : model.num_patches]


def molmo2_arguments(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Return pictures (B, 3, H, W) as rows of patches (B, N, patch * patch * 3), the channels of a pixel together."""
    side = model.config.patch_size
    patches = pixels.unfold(2, side, side).unfold(3, side, side)  # (B, 3, rows, cols, side, side)
    return {"pixel_values": patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)}


def length_first(model: Any, path: str, state: Tensor) -> Tensor:
    """Return (T, B, C) as (B, T, C)."""
    return state.transpose(0, 1)


def mask_units(model: Any, layer: int, state: Tensor) -> Tensor:
    """Return Hiera's tokens (B, N, C) as (B, rows, cols, C), by the model's own function."""
    ordered: Tensor = model.encoder.reroll(state, max(layer - 1, 0))
    return ordered


def deepseek_queries(config: Any, size: tuple[int, int]) -> int:
    """Return the number of learned queries behind the patches of pictures of `size` (height, width), as DeepSeek-OCR 2 has it."""
    rows, cols = (math.ceil(side // config.sam_config.patch_size / 4) for side in size)  # two convolutions of stride 2
    return 144 if rows * cols <= 144 else 256


def first_groups(config: Any, size: tuple[int, int]) -> int:
    """Return the number of group tokens behind the patches in the first stage of GroupViT."""
    return int(config.num_group_tokens[0])


def xclip_arguments(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Return videos (B, T, 3, H, W) as X-CLIP takes them: (B * T, 3, H, W)."""
    return {"pixel_values": pixels.flatten(0, 1)}


def xclip_tokens(model: Any, path: str, state: Tensor) -> Tensor:
    """Return (B * T, CLS + patches, C) as (B, T * patches, C). The CLS tokens of the frames are dropped."""
    return state[:, 1:].unflatten(0, (-1, model.config.num_frames)).flatten(1, 2)


def videoprism_tokens(model: Any, path: str, state: Tensor) -> Tensor:
    """Return the tokens of a spatial layer (B * T, N, C), or of a layer in time (B * N, T, C), as (B, T * N, C)."""
    if path.startswith("spatial_layers"):
        return state.unflatten(0, (-1, model.config.num_frames)).flatten(1, 2)
    places = (model.config.image_size // model.config.tubelet_size[1]) * (
        model.config.image_size // model.config.tubelet_size[2]
    )
    return state.unflatten(0, (-1, places)).transpose(1, 2).flatten(1, 2)
