"""What the keys of a whole model of open_clip belong to, as data."""

from __future__ import annotations

RENAMES = ((r"^(?:module\.|_orig_mod\.)+", ""),)  # of training on several devices, and of torch.compile
BESIDE = (
    (r"^(?:text|transformer|token_embedding|ln_final)\.", "text tower"),
    (r"^(?:positional_embedding|text_projection(?:\.\w+)?|logit_scale|logit_bias)$", "text tower"),
    (r"^text_decoder\.", "text decoder"),
    (r"^(?:input_resolution|context_length|vocab_size)$", "sizes of the model"),
)
"""The tensors of a whole model beside the encoder."""
