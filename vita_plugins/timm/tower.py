"""The encoders of timm, run by their common method ``forward_intermediates``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vita_core import BaseVisionTower
from vita_plugins.timm.geometry import build, input_sizes

HEADS = ("head", "fc", "classifier", "fc_norm", "attn_pool")


class TimmTower(BaseVisionTower):
    """Runs a timm encoder. timm's ``prune_intermediate_layers`` removes the layers after the selected one."""

    skips = (
        (rf"^({'|'.join(HEADS)})\.", "classification head"),
        (r"^mask_token$", "mask token of pretraining"),
    )

    def build_encoder(self) -> nn.Module:
        model = build(self.checkpoint_config, self.settings.options)
        self.input_sizes = input_sizes(model)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn &= self.attention == "sdpa"
        whole = set(model.state_dict())
        model.prune_intermediate_layers([self.blocks - 1], prune_norm=False, prune_head=True)
        for name in HEADS:
            if hasattr(model, name):
                setattr(model, name, nn.Identity())  # before timm 1.0.31, ConvNeXt's pruned head keeps its norm
        cut = sorted(key.replace(".", r"\.") for key in whole - set(model.state_dict()))
        if cut:
            self.skips = [*type(self).skips, (f"^(?:{'|'.join(cut)})$", "layers after the selected one")]
        return model.to(self.dtype)  # the k_bias of BEiT and EVA is a buffer that no checkpoint has

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        assert self.encoder is not None
        prefix = {"return_prefix_tokens": True} if self.shape.prefix_tokens else {}
        maps = self.encoder.forward_intermediates(
            pixels,
            indices=[layer - 1 for layer in layers],  # timm's index k is layer k + 1
            stop_early=True,
            intermediates_only=True,
            output_fmt="NCHW",
            **prefix,
        )
        kept, grid = {}, (0, 0)
        for layer, tapped in zip(layers, maps, strict=True):
            spatial, first = tapped if prefix else (tapped, None)
            grid = (spatial.shape[2], spatial.shape[3])
            tokens = spatial.flatten(2).transpose(1, 2)  # (B, rows * cols, C)
            kept[layer] = tokens if first is None else torch.cat([first, tokens], dim=1)
        return kept, grid

    def final_norm(self, tokens: Tensor) -> Tensor:
        assert self.encoder is not None
        normed: Tensor = self.encoder.norm(tokens)
        return normed
