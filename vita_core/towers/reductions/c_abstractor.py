"""`c_abstractor`: Honeybee's C-Abstractor (arXiv 2312.06742)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

from vita_core.planning.geometry import Grid
from vita_core.plugins.builtin_reductions.c_abstractor import position_grid, readout_widths, tensors
from vita_core.plugins.builtin_reductions.tensors import query_grid
from vita_core.plugins.reductions import Sizes
from vita_core.towers.features import to_map
from vita_core.towers.reductions.positions import resized

__all__ = ["CAbstractor"]


class CAbstractor(nn.Module):
    """RegNet blocks of timm, an adaptive average, more blocks and an MLP, under Honeybee's keys.

    The learned positions are interpolated to the grid of the tokens.
    """

    pos_emb: Tensor | None
    eos_tokens: Tensor | None

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        shapes, channels, hidden, depth = tensors(sizes, options), sizes[-1], options["hidden_size"], options["depth"]
        self.trained, self.unused = position_grid(sizes, options), int(options["cls_position"])
        for name in ("eos_tokens", "pos_emb"):
            drawn = nn.init.trunc_normal_(torch.empty(shapes[name]), std=0.02) if name in shapes else None
            self.register_parameter(name, None if drawn is None else nn.Parameter(drawn))
        self.prenorm = nn.LayerNorm(channels, eps=1e-6) if options["prenorm"] else None
        average = nn.AdaptiveAvgPool2d(query_grid(options["queries"]))
        stages = [
            RegStage(depth, into, hidden, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
            for into in (channels, hidden)
        ]
        self.net = nn.Sequential(stages[0], average, stages[1]) if depth else average
        widths = readout_widths(sizes, options)
        layers = [layer for into, out in pairwise(widths) for layer in (nn.SiLU(), nn.Linear(into, out))]
        self.readout = nn.Sequential(*layers[1:])

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return tokens (B, queries, width), and the end tokens behind them, of tokens (B, rows * cols, C)."""
        if self.prenorm is not None:
            tokens = self.prenorm(tokens)
        if self.pos_emb is not None and self.trained is not None:
            tokens = tokens + resized(self.pos_emb[0, self.unused :], self.trained, grid)
        reduced: Tensor = self.net(to_map(tokens, grid).permute(0, 3, 1, 2))
        reduced = self.readout(reduced.flatten(2).transpose(1, 2))
        if self.eos_tokens is None:
            return reduced
        return torch.cat([reduced, self.eos_tokens.expand(len(tokens), -1, -1)], dim=1)
