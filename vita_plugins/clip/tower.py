"""CLIP's encoder, by transformers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from vita_core import BaseVisionTower
from vita_plugins.clip import vision_config


class ClipTower(BaseVisionTower):
    """`CLIPVisionModel` run block by block."""

    renames = ((r"^vision_model\.", ""),)
    skips = (
        (r"^(text_model|text_projection|visual_projection|logit_scale)", "text tower and projections"),
        (r"position_ids$", "position numbers, computed"),
    )
    block_key = r"^encoder\.layers\.(\d+)\."
    input_sizes = "patches"
    encoder: CLIPVisionModel

    def build_encoder(self) -> nn.Module:
        config = CLIPVisionConfig.from_dict({**vision_config(self.checkpoint_config), "num_hidden_layers": self.blocks})
        config._attn_implementation = self.attention
        return CLIPVisionModel(config)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        model = self.encoder
        rows, cols = (side // model.config.patch_size for side in pixels.shape[-2:])
        tokens = model.pre_layrnorm(model.embeddings(pixels, interpolate_pos_encoding=True))  # [sic] transformers' name
        return self.run_blocks(tokens, model.encoder.layers, layers, attention_mask=None), (rows, cols)

    def final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.encoder.post_layernorm(tokens)
        return normed
