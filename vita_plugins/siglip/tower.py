"""The SigLIP encoder of transformers. timm's version has another GELU and another crop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vita_core import BaseVisionTower, BlockParts
from vita_plugins.siglip import vision_config


class SiglipTower(BaseVisionTower):
    """Runs `SiglipVisionModel` block by block, without its pooling head."""

    renames = ((r"^vision_model\.", ""),)
    skips = (
        (r"^(text_model|logit_scale|logit_bias)", "text tower"),
        (r"^head\.", "pooling head"),
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
    encoder: SiglipVisionModel

    def build_encoder(self) -> nn.Module:
        changed = {"num_hidden_layers": self.blocks, "vision_use_head": False}
        config = SiglipVisionConfig.from_dict({**vision_config(self.checkpoint_config), **changed})
        config._attn_implementation = self.attention
        return SiglipVisionModel(config)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        model = self.encoder
        rows, cols = (side // model.config.patch_size for side in pixels.shape[-2:])
        tokens = model.embeddings(pixels, interpolate_pos_encoding=True)
        return self.run_blocks(tokens, model.encoder.layers, layers, attention_mask=None), (rows, cols)

    def final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.encoder.post_layernorm(tokens)
        return normed
