"""The DINOv2 encoder of transformers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from vita_core import BaseVisionTower


class Dinov2Tower(BaseVisionTower):
    """Runs `Dinov2Model` or `Dinov2WithRegistersModel` block by block."""

    renames = (
        (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1."),
        (r"\.attention\.query\.", ".attention.q_proj."),
        (r"\.attention\.key\.", ".attention.k_proj."),
        (r"\.attention\.value\.", ".attention.v_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
    )
    splits = ((r"\.weights_in\.", (".gate_proj.", ".up_proj.")),)
    block_key = r"^encoder\.layer\.(\d+)\."

    def build_encoder(self) -> nn.Module:
        settings = {"num_hidden_layers": self.blocks, "out_features": None, "out_indices": None}
        config = AutoConfig.for_model(**{**self.checkpoint_config, **settings})
        return AutoModel.from_config(config, attn_implementation=self.attention)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        patch = self.checkpoint_config["patch_size"]
        grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        return self.run_blocks(self.encoder.embeddings(pixels), self.encoder.encoder.layer, layers), grid

    def final_norm(self, tokens: Tensor) -> Tensor:
        return self.encoder.layernorm(tokens)
