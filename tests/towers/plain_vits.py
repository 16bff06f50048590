"""Small ViTs of timm whose blocks can be taken apart."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

TIMM = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {"patch_size": 16},
    "vit_small_patch16_dinov3": {},
    "vit_pe_core_small_patch16_384": {},
    "eva02_tiny_patch14_336": {"patch_size": 16},
}


def timm_model(name: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, **{"img_size": 64, **more}, embed_dim=48, num_heads=4, depth=3).eval()
    spread(model)
    return model


def spread(model: nn.Module) -> None:
    """Give a model other values than the libraries' first ones, with which all scores are equal."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)


def half(block: nn.Module, index: int, output: Tensor) -> Tensor:
    """What a half of a block adds: its output, times the layer scale if there is one."""
    scale = getattr(block, f"ls{index}", None) or getattr(block, f"gamma_{index}", None)
    return output if scale is None else scale(output) if isinstance(scale, nn.Module) else scale * output
