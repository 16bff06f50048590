"""The encoders of timm, run by their common method ``forward_intermediates``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vita_core import BaseVisionTower
from vita_plugins.timm import own_config
from vita_plugins.timm.blocks import embedded, parts
from vita_plugins.timm.building import build, build_on_meta, input_sizes
from vita_plugins.timm.geometry import check_norm, normed
from vita_plugins.timm.naflex import intermediates
from vita_plugins.timm.pruning import cut, layers_of
from vita_plugins.timm.running import hidden_states
from vita_plugins.timm.scoring import tapped
from vita_plugins.timm.special import STAGES_ALONE


class TimmTower(BaseVisionTower):
    """Runs a timm encoder. timm's ``prune_intermediate_layers`` removes the head and the layers after the selected one."""

    nested = True
    # transformers' TimmWrapperModel and TimmBackbone, and models of stages alone, in which timm writes `stages_0` for `stages.0`
    renames = ((r"^(?:backbone\.)?(?:timm_model|_backbone)\.", ""),)
    stages = ((r"^(stages|stem|blocks|features|layers)_(\d+)\.", r"\1.\2."),)

    @property
    def described(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """timm's config of the model, and the options for it."""
        return own_config(self.checkpoint_config), self.settings.options

    def build_encoder(self) -> nn.Module:
        model = build(*self.described)
        self.input_sizes, self.block_parts = input_sizes(model), parts(model)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn &= self.attention == "sdpa"
        if self.settings.norm:
            check_norm(*self.described, self.shape, {*self.resolved.geometry.layers})
        if self.checkpoint_config.get("model_type") in STAGES_ALONE:
            self.renames += self.stages
        self.skips = cut(model, tapped(self), self.blocks, norm=self.shape.norm_parameters is not None)
        return model.to(self.dtype)  # the k_bias of BEiT and EVA is a buffer that no checkpoint has

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, int]]:
        if self.opened is not None:
            tokens, arguments, grid = embedded(self.encoder, pixels)
            return self.run_blocks(tokens, self.encoder.blocks, layers, **arguments), grid
        return hidden_states(self.encoder, pixels, layers, prefix=self.shape.prefix_tokens > 0)

    def encode_pictures(
        self, pictures: Sequence[Tensor], layers: Sequence[int]
    ) -> list[tuple[dict[int, Tensor], tuple[int, int]]]:
        found = intermediates(self.encoder, pictures, [layer - 1 for layer in layers])
        return [(dict(zip(layers, states, strict=True)), grid) for states, grid in found]

    def final_norm(self, tokens: Tensor) -> Tensor:
        return normed(self.encoder.norm, tokens)

    def in_run_order(self, encoder: nn.Module) -> list[tuple[str, nn.Parameter]]:
        layers = layers_of(build_on_meta(*self.described), tapped(self), norm=self.shape.norm_parameters is not None)
        return sorted(encoder.named_parameters(), key=lambda named: layers.get(named[0], len(self.shape.stages)))
