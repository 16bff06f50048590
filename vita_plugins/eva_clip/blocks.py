"""Where the parts of timm's `EvaBlock` are, for reductions inside the encoder."""

from __future__ import annotations

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from vita_core import BlockParts


def rotated(keys: Tensor, rows: Tensor) -> Tensor:
    """Return keys (B, heads, 1 + N, d) as the attention multiplies them: those of the patches are turned by rows (N, 2 d)."""
    return torch.cat([keys[:, :, :1], apply_rot_embed_cat(keys[:, :, 1:], rows)], dim=2)


PARTS = BlockParts(
    norm="norm1",
    attention="attn",
    mlp_norm="norm2",
    mlp="mlp",
    queries="attn.q_norm",
    keys="attn.k_norm",
    bias="attn_mask",
    after_attention=("gamma_1", "drop_path1"),
    after_mlp=("gamma_2", "drop_path2"),
    positions="rope",
    rotate=rotated,
)
