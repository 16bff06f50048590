"""The InternViT encoder of transformers, with weights from the published checkpoints, whose own code is not needed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import InternVLVisionConfig, InternVLVisionModel

from vita_core import BaseVisionTower, BlockParts
from vita_plugins.internvit import library_config


class InternVitTower(BaseVisionTower):
    """Runs `InternVLVisionModel` block by block."""

    renames = (
        (r"^(?:model\.)?(?:vision_model|vision_tower)\.", ""),  # the latter in transformers' own InternVL
        (r"^embeddings\.class_embedding$", "embeddings.cls_token"),
        (r"^embeddings\.position_embedding$", "embeddings.position_embeddings"),
        (r"^embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
        (r"^encoder\.layers\.", "encoder.layer."),
        (r"\.attn\.proj\.", ".attention.projection_layer."),
        (r"\.attn\.(?=[qk]_norm\.|qkv\.)", ".attention."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.ls([12])$", r".lambda_\1"),
    )
    splits = ((r"\.qkv\.", (".q_proj.", ".k_proj.", ".v_proj.")),)
    skips = ((r"^(?:model\.)?(?:language_model|mlp1|multi_modal_projector|lm_head)\.", "language model and projector"),)
    block_key = r"^encoder\.layer\.(\d+)\."
    input_sizes = "patches"
    block_parts = BlockParts(
        norm="layernorm_before",
        attention="attention",
        mlp_norm="layernorm_after",
        mlp="mlp",
        queries="attention.q_norm",
        keys="attention.k_norm",
        bias="attention_mask",
        after_attention=("lambda_1",),
        after_mlp=("dropout", "lambda_2"),
    )
    encoder: InternVLVisionModel

    def build_encoder(self) -> nn.Module:
        own = library_config(self.checkpoint_config)
        config = InternVLVisionConfig.from_dict({**own, "num_hidden_layers": self.blocks})
        config._attn_implementation = self.attention
        return InternVLVisionModel(config)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        model = self.encoder
        patch_rows, patch_cols = model.config.patch_size
        grid = (pixels.shape[-2] // patch_rows, pixels.shape[-1] // patch_cols)
        return self.run_blocks(model.embeddings(pixels), model.encoder.layer, layers), grid

    def final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.encoder.layernorm(tokens)
        return normed
