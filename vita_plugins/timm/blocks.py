"""Reductions inside timm's ViTs: which encoders can be taken apart, where the parts of their blocks are, and their stem."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vita_core import BlockParts, hidden_states
from vita_plugins.timm import own_config
from vita_plugins.timm.building import build_on_meta

SCALES = {Block: ("ls{}", "drop_path{}"), EvaBlock: ("gamma_{}", "drop_path{}")}
"""What the outputs of attention (1) and MLP (2) go through, for each class of blocks that can be taken apart."""


def opened(config: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Return whether an encoder is a ViT whose blocks can be taken apart."""
    return parts(build_on_meta(own_config(config), options)) is not None


def parts(model: nn.Module) -> BlockParts | None:
    """Return where the parts of the blocks are, or None if an encoder has other blocks than the plain ones."""
    if not isinstance(model, VisionTransformer | Eva) or getattr(model, "rope_mixed", False):
        return None
    if not all(type(block) in SCALES and plain(block.attn) for block in model.blocks):
        return None
    scales = [tuple(name.format(half) for name in SCALES[type(model.blocks[0])]) for half in (1, 2)]
    rotary, own = isinstance(model, Eva), model.blocks[0].attn
    return BlockParts(
        norm="norm1",
        attention="attn",
        mlp_norm="norm2",
        mlp="mlp",
        queries="attn.q_norm",
        keys="attn.k_norm",
        bias="attn_mask",
        after_attention=scales[0],
        after_mlp=scales[1],
        positions="rope" if rotary else None,
        rotate=functools.partial(rotated, own.num_prefix_tokens, own.rotate_half) if rotary else None,
    )


def plain(attention: nn.Module) -> bool:
    """Return whether an attention has the usual sizes: as many keys as queries, of the width of the tokens, and no gate."""
    if type(attention) not in (Attention, EvaAttention, AttentionRope) or getattr(attention, "gate", None) is not None:
        return False
    same = getattr(attention, "num_kv_heads", attention.num_heads) == attention.num_heads
    return bool(same and attention.proj.in_features == attention.proj.out_features)


def rotated(prefix: int, half: bool, keys: Tensor, rows: Tensor) -> Tensor:
    """Return keys (B, heads, T, d) as the attention multiplies them: those of the patches are turned by rows (N, 2 d)."""
    return torch.cat([keys[:, :, :prefix], apply_rot_embed_cat(keys[:, :, prefix:], rows, half=half)], dim=2)


def embedded(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Mapping[str, Any], tuple[int, int]]:
    """Return what the first block gets for pixels (B, 3, H, W): tokens (B, T, C) and its other arguments; and the grid."""
    given: dict[str, Any] = {}
    thread = threading.get_ident()

    def place(_: int, keep: Callable[[Tensor], None]) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            if threading.get_ident() == thread:
                given.update(kwargs)
            keep(args[0])

        return model.blocks[0].register_forward_pre_hook(before, with_kwargs=True)

    tokens = hidden_states(place, lambda: model.forward_intermediates(pixels, indices=[0]), [0])[0]
    rows, cols = model.patch_embed.dynamic_feat_size(pixels.shape[-2:])
    return tokens, given, (rows, cols)
