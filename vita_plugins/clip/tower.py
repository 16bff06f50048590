"""The CLIP encoder of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.activations import QuickGELUActivation

from vita_core import BaseVisionTower, BlockParts
from vita_plugins.clip import vision_config


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), bit-equal to transformers. Without gradients it needs one buffer instead of three."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return x * torch.sigmoid(1.702 * x)
        return (1.702 * x).sigmoid_().mul_(x)


class ClipTower(BaseVisionTower):
    """Runs `CLIPVisionModel` block by block."""

    renames = ((r"^vision_model\.", ""),)
    skips = (
        (r"^(text_model|text_projection|visual_projection|logit_scale)", "text tower and projections"),
        (r"^classifier\.", "head"),
        (r"position_ids$", "position ids, which are computed"),
    )
    block_key = r"^encoder\.layers\.(\d+)\."
    input_sizes = "patches"
    block_parts = BlockParts(
        norm="layer_norm1",
        attention="self_attn",
        mlp_norm="layer_norm2",
        mlp="mlp",
        queries="self_attn.q_proj",
        keys="self_attn.k_proj",
        bias="attention_mask",
    )
    encoder: CLIPVisionModel

    def build_encoder(self) -> nn.Module:
        config = CLIPVisionConfig.from_dict({**vision_config(self.checkpoint_config), "num_hidden_layers": self.blocks})
        config._attn_implementation = self.attention
        model = CLIPVisionModel(config)
        for block in model.encoder.layers:
            if isinstance(block.mlp.activation_fn, QuickGELUActivation):
                block.mlp.activation_fn = QuickGELU()
        return model

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        model = self.encoder
        rows, cols = (side // model.config.patch_size for side in pixels.shape[-2:])
        tokens = model.pre_layrnorm(model.embeddings(pixels, interpolate_pos_encoding=True))  # [sic] transformers' name
        return self.run_blocks(tokens, model.encoder.layers, layers, attention_mask=None), (rows, cols)

    def final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.encoder.post_layernorm(tokens)
        return normed
