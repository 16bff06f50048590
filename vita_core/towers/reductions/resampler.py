"""`resampler`: learned queries that attend to the tokens, as in Qwen-VL (arXiv 2308.12966) or Idefics2 (arXiv 2405.02246)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.planning.geometry import Grid
from vita_core.plugins.builtin_reductions.resampler import qwen_heads
from vita_core.plugins.builtin_reductions.tensors import query_grid
from vita_core.plugins.reductions import Sizes
from vita_core.towers.reductions.positions import resized, sincos

__all__ = ["PerceiverResampler", "Resampler", "resampler"]


def resampler(sizes: Sizes, options: Mapping[str, Any]) -> nn.Module:
    """Return the resampler of the layout that the options name."""
    kinds = {"qwen": Resampler, "idefics2": PerceiverResampler}
    module: nn.Module = kinds[options["layout"]](sizes, options)
    return module


class Resampler(nn.Module):
    """Qwen-VL's: one attention of learned queries to the tokens, with fixed positions on both sides.

    The keys are those of Qwen-VL's ``attn_pool``, and ``ln_post`` and ``proj`` beside it. The table ``pos_embed`` of the
    queries' grid is not learned. It is interpolated to the grid of the tokens, or computed for it as in MiniCPM-V 2.
    """

    pos_embed: Tensor

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        channels, width = sizes[-1], options["width"] or sizes[-1]
        self.query_grid, self.adaptive = query_grid(options["queries"]), options["adaptive"]
        table = sincos(self.query_grid, width)
        self.register_buffer("pos_embed", table)
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(table.shape), std=0.02))
        self.kv_proj = nn.Linear(channels, width, bias=False) if channels != width else nn.Identity()
        self.attn = nn.MultiheadAttention(width, qwen_heads(width, options["heads"]), batch_first=True)
        self.ln_q, self.ln_kv = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.ln_post = nn.LayerNorm(width, eps=1e-6) if options["post"] else None
        self.proj = nn.Parameter(torch.randn(width, width) * width**-0.5) if options["post"] else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return tokens (B, queries, width) of tokens (B, rows * cols, C)."""
        values = self.ln_kv(self.kv_proj(tokens))
        keys = values + self._positions(grid)
        queries = (self.ln_q(self.query) + self.pos_embed).expand(len(tokens), -1, -1)
        attended: Tensor = self.attn(queries, keys, values, need_weights=False)[0]
        if self.ln_post is None:
            return attended
        projected: Tensor = self.ln_post(attended) @ self.proj
        return projected

    def _positions(self, grid: Grid) -> Tensor:
        if self.adaptive:
            return sincos((grid[0], grid[1]), self.pos_embed.shape[1]).to(self.pos_embed)
        return resized(self.pos_embed, self.query_grid, grid)


class PerceiverResampler(nn.Module):
    """Idefics2's: the layers of transformers' ``Idefics2PerceiverResampler``, under its keys. It ignores the grid.

    With a width, the ``modality_projection`` of Idefics2's connector comes before them.
    """

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
        from transformers.models.idefics2.modeling_idefics2 import Idefics2MLP, Idefics2PerceiverResampler

        channels, width = sizes[-1], options["width"]
        config = Idefics2PerceiverConfig(
            hidden_size=width or channels,
            resampler_n_latents=options["queries"],
            resampler_depth=options["depth"],
            resampler_n_heads=options["heads"],
            resampler_head_dim=options["head_width"],
            num_key_value_heads=options["kv_heads"],
            attn_implementation="sdpa",
        )
        self.modality_projection = Idefics2MLP(channels, options["mlp_width"], width, "silu") if width else None
        original = Idefics2PerceiverResampler(config)
        self.latents, self.layers, self.norm = original.latents, original.layers, original.norm
        # the original's are all ones: equal queries would never learn to differ
        nn.init.normal_(self.latents, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Return tokens (B, queries, width) of tokens (B, N, C)."""
        if self.modality_projection is not None:
            tokens = self.modality_projection(tokens)
        latents: Tensor = self.latents.repeat(len(tokens), 1, 1)
        for layer in self.layers if len(tokens) else ():  # transformers' attention cannot reshape an empty batch
            latents = layer(latents, tokens)
        normed: Tensor = self.norm(latents)
        return normed
