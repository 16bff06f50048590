"""An encoder that transformers does not have. `save_pretrained` copies this file beside the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class TinyConfig(PreTrainedConfig):
    model_type = "tiny_remote"

    def __init__(
        self, width: int = 32, depth: int = 3, image_size: int = 56, patch_size: int = 14, **kwargs: object
    ) -> None:
        self.width, self.depth, self.image_size, self.patch_size = width, depth, image_size, patch_size
        super().__init__(**kwargs)


class TinyBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(17, 17),
            nn.Linear(width, width),
            nn.GELU(),
        )

    def forward(self, state: Tensor) -> Tensor:
        state = state + self.mix(self.norm(state).transpose(1, 2)).transpose(1, 2)
        return state + self.down(self.up(state))


class TinyEncoder(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.summary = nn.Parameter(torch.zeros(1, 1, config.width))
        self.trunk = nn.ModuleList(TinyBlock(config.width) for _ in range(config.depth))
        self.final_norm = nn.LayerNorm(config.width)
        self.post_init()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        state = torch.cat([self.summary.expand(len(x), -1, -1), tokens], dim=1)
        for block in self.trunk:
            state = block(state)
        state = self.final_norm(state)
        return state[:, 0], state[:, 1:]


class TinyChat(TinyEncoder):
    def forward(self, input_ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(pixels)


class TinyPacked(TinyEncoder):
    def forward(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x)
