"""The properties of a tower that are known before its weights are read: sizes, image processor, dtype, device."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.loading import LoadReport
from vita_core.pixels.native import native_processor
from vita_core.pixels.processors import image_processor
from vita_core.planning.geometry import Grid
from vita_core.planning.towers import ResolvedTower
from vita_core.towers.devices import dtype_on

__all__ = ["TowerMetadata"]


class TowerMetadata(nn.Module):
    """The resolved config of a tower, its encoder once that is loaded, and the properties that follow from them."""

    def __init__(self, resolved: ResolvedTower, device: torch.device | str) -> None:
        super().__init__()
        self.resolved = resolved
        self.settings = resolved.settings
        self.shape = resolved.shape
        self.checkpoint_config = resolved.source.config
        self.encoder: nn.Module | None = None
        self.reductions = nn.ModuleList()
        self.reduction_reports: tuple[LoadReport | None, ...] = ()
        self._device = torch.device(device)
        self._processor: Any = None

    @property
    def blocks(self) -> int:
        """The number of blocks that are needed: those up to the last selected layer."""
        return self.resolved.geometry.blocks

    @property
    def is_loaded(self) -> bool:
        """Whether the encoder is built and has its weights."""
        return self.encoder is not None

    @property
    def attention(self) -> str:
        """The attention implementation to build the encoder with, as transformers names it (``auto`` is ``sdpa``)."""
        return "sdpa" if self.settings.attention == "auto" else self.settings.attention

    @property
    def image_processor(self) -> Any:
        """The Hugging Face image processor: call ``preprocess(pictures, return_tensors="pt")["pixel_values"]``.

        For an encoder of native resolution, the result is a list of (3, H, W).
        """
        if self._processor is None:
            fast, native = self.settings.preprocess == "fast", self.shape.native
            config = self.resolved.processor
            self._processor = (
                image_processor(config, fast=fast) if native is None else native_processor(config, native, fast=fast)
            )
        return self._processor

    @property
    def vision_tower(self) -> nn.Module | None:
        """The encoder itself, or None before `load_model`."""
        return self.encoder

    @property
    def config(self) -> SimpleNamespace:
        """The checkpoint's own config, with its keys as attributes."""
        return SimpleNamespace(**self.checkpoint_config)

    @property
    def hidden_size(self) -> int:
        """The number of channels of the output."""
        return self.resolved.geometry.hidden_size

    @property
    def num_patches(self) -> int:
        """The number of patches of one picture of the encoder's own size (or one video), before any reduction."""
        return math.prod(self.resolved.geometry.patch_grid)

    @property
    def num_tokens(self) -> int:
        """The number of output tokens for one picture of the configured size."""
        return self.resolved.geometry.num_tokens

    @property
    def grid(self) -> Grid | None:
        """The grid of the output tokens: (rows, cols) of a picture of the configured size, (steps, rows, cols) of a video.

        It is None if a reduction leaves no grid.
        """
        return self.resolved.geometry.grid

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's dtype, or before loading the configured dtype."""
        parameter = None if self.encoder is None else next(self.encoder.parameters(), None)
        return dtype_on(self.settings.dtype, self._device) if parameter is None else parameter.dtype

    @property
    def device(self) -> torch.device:
        """The encoder's device, or before loading the device that it will be loaded to."""
        parameter = None if self.encoder is None else next(self.encoder.parameters(), None)
        return self._device if parameter is None else parameter.device

    @property
    def dummy_feature(self) -> Tensor:
        """A tensor of zeros (1, hidden_size), for training batches without a picture."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)
