"""The vision encoders of open_clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vita_core import BaseVisionTower, ResolvedTower
from vita_plugins.open_clip.building import as_timm, build, embedded
from vita_plugins.open_clip.models import model_config
from vita_plugins.open_clip.wrapped import OpenClipTimmTower


def open_tower(resolved: ResolvedTower, device: torch.device | str = "cpu") -> BaseVisionTower:
    """Return the tower for an encoder that open_clip builds with timm, or for one that it builds itself."""
    timm = as_timm(model_config(resolved.source.config, resolved.settings.options))
    return OpenClipTower(resolved, device) if timm is None else OpenClipTimmTower(resolved, device)


class OpenClipTower(BaseVisionTower):
    """Runs the blocks of a ViT, or the stages of a ResNet, that open_clip builds itself."""

    skips = ((r"^(?:proj$|attnpool\.|attn_pool)", "projection head"),)
    block_key = r"^transformer\.resblocks\.(\d+)\."
    nested = True  # checkpoints hold the text tower too; training adds a prefix

    def build_encoder(self) -> nn.Module:
        model = model_config(self.checkpoint_config, self.settings.options)
        encoder, _, norm = build(model, self.blocks)
        self.resnet = hasattr(encoder, "layer1")
        self.input_sizes = "any" if self.resnet else "patches"
        if self.resnet:
            unused = [(rf"^layer{stage}\.", "stages after the selected one") for stage in range(self.blocks + 1, 5)]
            self.skips = (*self.skips, *unused)
        elif norm is None:
            self.skips = (*self.skips, (r"^ln_post\.", "projection head"))
        return encoder

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[Mapping[int, Tensor], tuple[int, int]]:
        model = self.encoder
        if not self.resnet:
            tokens, grid = embedded(model, pixels)
            return self.run_blocks(tokens, model.transformer.resblocks, layers), grid
        stages = [model.layer1, model.layer2, model.layer3, model.layer4]
        maps = self.run_blocks(model.stem(pixels), stages, layers)  # (B, C, rows, cols)
        height, width = maps[layers[-1]].shape[-2:]
        return {layer: state.flatten(2).transpose(1, 2) for layer, state in maps.items()}, (height, width)

    def final_norm(self, tokens: Tensor) -> Tensor:
        return self.encoder.ln_post(tokens)
