"""The convolutional backbones of torchvision. A layer is the last map of one resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from vita_core import BaseVisionTower
from vita_plugins.torchvision.backbone import HEADS, architecture, head, measure, steps


class TorchvisionTower(BaseVisionTower):
    """Runs a torchvision classifier up to the selected layer."""

    def build_encoder(self) -> nn.Module:
        options = self.settings.options
        model: nn.Module = torchvision.models.get_model(architecture(self.checkpoint_config, options), weights=None)
        self.ends = measure(self.checkpoint_config, options, self.shape.image_size)[1]
        scored = self.blocks == len(self.ends)
        skips = [] if scored else [(rf"^{name}\.", "classification head") for name in HEADS]
        for name in HEADS:
            if hasattr(model, name) and not scored:
                setattr(model, name, nn.Identity())
        for key, _ in steps(model)[self.ends[min(self.blocks, len(self.ends) - 1)] + 1 :]:
            model.set_submodule(key, nn.Identity())
            skips.append((rf"^{key}\.".replace(".", r"\.", key.count(".")), "stages after the last selected layer"))
        self.skips = skips
        return model

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        assert self.encoder is not None
        kept: dict[int, Tensor] = {}
        # the memory format of the convolutions in oneDNN and cuDNN
        x = pixels.contiguous(memory_format=torch.channels_last)
        for index, (_, module) in enumerate(steps(self.encoder)):
            x = module(x)
            if index in self.ends and self.ends.index(index) in layers:
                kept[self.ends.index(index)] = x.flatten(2).transpose(1, 2)  # (B, rows * cols, C)
                grid = (x.shape[2], x.shape[3])
        if len(self.ends) in layers:
            tokens = x.flatten(2).transpose(1, 2)
            kept[len(self.ends)] = torch.cat([tokens, head(self.encoder)(tokens)], dim=-1)
            grid = (x.shape[2], x.shape[3])
        return kept, grid
