"""What a tower knows of itself, right before a weight is read: sizes, processor, dtype, device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.pixels.processors import image_processor
from vita_core.planning.geometry import Grid
from vita_core.planning.towers import ResolvedTower
from vita_core.towers.devices import dtype_on

__all__ = ["TowerMetadata"]


class TowerMetadata(nn.Module):
    """A resolved config, the encoder once it is loaded, and the properties that follow from both."""

    def __init__(self, resolved: ResolvedTower, device: torch.device | str) -> None:
        super().__init__()
        self.resolved = resolved
        self.settings = resolved.settings
        self.shape = resolved.shape
        self.checkpoint_config = resolved.source.config
        self.blocks = resolved.geometry.blocks
        self.encoder: nn.Module | None = None
        self._device = torch.device(device)
        self._processor: Any = None

    @property
    def is_loaded(self) -> bool:
        """Whether the encoder holds its weights."""
        return self.encoder is not None

    @property
    def attention(self) -> str:
        """The attention implementation to build with, in transformers' names (``auto`` is ``sdpa``)."""
        return "sdpa" if self.settings.attention == "auto" else self.settings.attention

    @property
    def image_processor(self) -> Any:
        """A Hugging Face image processor: ``preprocess(pictures, return_tensors="pt")["pixel_values"]``."""
        if self._processor is None:
            self._processor = image_processor(self.resolved.processor, fast=self.settings.preprocess == "fast")
        return self._processor

    @property
    def vision_tower(self) -> nn.Module | None:
        """The encoder itself, None before `load_model`."""
        return self.encoder

    @property
    def config(self) -> SimpleNamespace:
        """The checkpoint's own config, its keys as attributes."""
        return SimpleNamespace(**self.checkpoint_config)

    @property
    def hidden_size(self) -> int:
        """Channels of the output."""
        return self.resolved.geometry.hidden_size

    @property
    def num_patches(self) -> int:
        """Patches of the encoder for one picture of its own size, before any reduction."""
        rows, cols = self.resolved.geometry.patch_grid
        return rows * cols

    @property
    def num_tokens(self) -> int:
        """Tokens of the output for one picture of the configured size."""
        return self.resolved.geometry.num_tokens

    @property
    def grid(self) -> Grid:
        """(rows, cols) of the output for one picture of the configured size."""
        return self.resolved.geometry.grid

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's dtype (before loading: the configured one)."""
        parameter = None if self.encoder is None else next(self.encoder.parameters(), None)
        return dtype_on(self.settings.dtype, self._device) if parameter is None else parameter.dtype

    @property
    def device(self) -> torch.device:
        """The encoder's device (before loading: the one it will be loaded to)."""
        parameter = None if self.encoder is None else next(self.encoder.parameters(), None)
        return self._device if parameter is None else parameter.device

    @property
    def dummy_feature(self) -> Tensor:
        """Zeros (1, hidden_size), for batches without a picture."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)
