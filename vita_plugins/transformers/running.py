"""The arguments with which the vision models of transformers are run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vita_plugins.transformers.families import Family
from vita_plugins.transformers.pictures import pair


def inputs(family: Family, model: nn.Module, pixels: Tensor) -> dict[str, Any]:
    """Return the arguments of the model's ``forward`` for pixels (B, 3, H, W), or of videos (B, frames, 3, H, W)."""
    given: dict[str, Any] = {str(model.main_input_name): pixels, **dict(family.arguments)}
    size, config = tuple(pixels.shape[-2:]), model.config
    if family.interpolates and size != pair(config.image_size):
        given["interpolate_pos_encoding"] = True
    if hasattr(config, "mask_ratio"):  # ViT-MAE shuffles the patches in the order of the noise
        patches = size[0] // config.patch_size * (size[1] // config.patch_size)
        given["noise"] = torch.arange(patches, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
    return given
