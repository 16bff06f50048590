"""`qformer`: BLIP-2's Q-Former (arXiv 2301.12597)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.blip_2.configuration_blip_2 import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

from vita_core.planning.geometry import Grid
from vita_core.plugins.reductions import Sizes

__all__ = ["QFormer"]


class QFormer(nn.Module):
    """The query tokens and transformers' ``Blip2QFormerModel``, under the keys of ``Blip2Model``. It ignores the grid."""

    def __init__(self, sizes: Sizes, options: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, width = options["hidden_size"], options["width"]
        config = Blip2QFormerConfig(
            encoder_hidden_size=sizes[-1],
            hidden_size=hidden,
            num_hidden_layers=options["depth"],
            num_attention_heads=options["heads"],
            intermediate_size=options["mlp_width"],
            cross_attention_frequency=options["cross_every"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.query_tokens = nn.Parameter(nn.init.normal_(torch.empty(1, options["queries"], hidden), std=0.02))
        self.qformer = Blip2QFormerModel(config)
        self.language_projection = nn.Linear(hidden, width) if width else None

    def forward(self, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Return tokens (B, queries, width) of tokens (B, N, C)."""
        queries = self.query_tokens.repeat(len(tokens), 1, 1)
        reduced: Tensor = queries  # of an empty batch, which transformers' attention cannot reshape
        if len(tokens):
            reduced = self.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        return reduced if self.language_projection is None else self.language_projection(reduced)
