"""A vision model of transformers, run by its own ``forward``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from vita_core import BaseVisionTower, NoBlock, VitaError, hidden_states
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.finding import vision_config
from vita_plugins.transformers.geometry import build
from vita_plugins.transformers.keys import checkpoint_keys
from vita_plugins.transformers.running import inputs
from vita_plugins.transformers.video import step_by_step


class TransformersTower(BaseVisionTower):
    """Runs any vision model in `vita_plugins.transformers.families.FAMILIES`, up to the last selected layer."""

    nested = True
    family: Family

    def build_encoder(self) -> nn.Module:
        if self.settings.compile:
            raise VitaError("tower.compile: tower 'transformers' does not support it yet. Try: `tower.compile: false`")
        attention = None if self.settings.attention == "auto" else self.attention
        model, self.family = build(vision_config(self.checkpoint_config), attention)
        keys = checkpoint_keys(model, self.family)
        self.renames, self.splits, self.skips = keys.renames, keys.splits, keys.skips
        self.block_key = rf"^{re.escape(self.family.blocks)}\.(\d+)\."
        self.input_sizes = self.family.sizes
        blocks = model.get_submodule(self.family.blocks)
        model.set_submodule(self.family.blocks, nn.ModuleList([*blocks[: self.blocks]] or [NoBlock()]))
        return model

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, ...]]:
        assert self.encoder is not None
        own, (rows, cols) = self.shape.image_size, self.shape.stages[0].grid
        grid: tuple[int, ...] = (pixels.shape[-2] // (own[0] // rows), pixels.shape[-1] // (own[1] // cols))
        encoder, given = self.encoder, inputs(self.family, self.encoder, pixels)
        kept = hidden_states(encoder.get_submodule(self.family.blocks), lambda: encoder(**given), layers)
        if self.shape.frames is not None:
            steps = self.shape.steps
            return {k: step_by_step(kept[k], encoder.config, steps) for k in kept}, (steps, *grid)
        for layer, state in kept.items():
            if state.ndim == 4:  # (B, C, rows, cols)
                grid = (state.shape[2], state.shape[3])
                kept[layer] = state.flatten(2).transpose(1, 2)
        return kept, grid

    def final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.encoder.get_submodule(self.family.norm)(tokens)
        return normed
