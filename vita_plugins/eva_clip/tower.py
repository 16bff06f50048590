"""The EVA-CLIP encoder, built with timm's `Eva`. The original keys are renamed to timm's keys."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.eva import Eva
from torch import Tensor, nn

from vita_core import BaseVisionTower
from vita_plugins.eva_clip import mlp_width, vision_config
from vita_plugins.eva_clip.blocks import PARTS


class EvaClipTower(BaseVisionTower):
    """Runs timm's `Eva` block by block, with rotary positions."""

    renames = (
        (r"^(?:module\.)?visual\.(?:trunk\.)?", ""),  # `module` is of training on several devices
        (r"\.inner_attn_ln\.", ".norm."),
        (r"\.ffn_ln\.", ".norm."),
        (r"\.([qv])_bias$", r".\1_proj.bias"),
        (r"\.w1\.", ".fc1_g."),
        (r"\.w2\.", ".fc1_x."),
        (r"\.w3\.", ".fc2."),
    )
    skips = (
        (r"^(?:module\.)?(?:text|logit_scale|logit_bias)", "text tower"),
        (r"(^|\.)rope\.", "rotary angles, which are computed"),
        (r"^(head|fc_norm)\.", "projection head"),
    )
    block_key = r"^blocks\.(\d+)\."
    input_sizes = "patches"
    norm_path = "norm"
    block_parts = PARTS

    def build_encoder(self) -> nn.Module:
        vision = vision_config(self.checkpoint_config)
        model = Eva(
            img_size=vision["image_size"],
            patch_size=vision["patch_size"],
            num_classes=0,
            embed_dim=vision["width"],
            depth=self.blocks,
            num_heads=vision["width"] // vision["head_width"],
            mlp_ratio=mlp_width(vision) / vision["width"],
            qkv_fused=False,
            swiglu_mlp=vision["naiveswiglu"],
            scale_mlp=vision["subln"],
            scale_attn_inner=vision["subln"],
            use_rot_pos_emb=vision["rope"],
            ref_feat_shape=(vision["pt_hw_seq_len"], vision["pt_hw_seq_len"]),
            dynamic_img_size=True,
            global_pool="token",
        )
        for block in model.blocks:
            block.attn.fused_attn &= self.attention == "sdpa"
        return model

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        model = self.encoder
        patches = model.patch_embed(pixels)  # (B, rows, cols, C)
        tokens, rope = model._pos_embed(patches)
        rope = rope if rope is None else rope.to(tokens.dtype)  # in float32, every rotation would move twice the bytes
        return self.run_blocks(model.norm_pre(tokens), model.blocks, layers, rope=rope), patches.shape[1:3]
