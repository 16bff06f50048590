"""Generate answers from merged prompts with transformers' `generate`. The prefix that a batch shares is computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from vita_core.config.schema import GenerationConfig
from vita_core.errors import CheckpointError
from vita_core.language.llm import PICTURE_ID, LanguageModel

__all__ = ["cache_keyword", "generate", "shared_prefix"]


@functools.cache
def cache_keyword() -> str:
    """Return the name of the cache in transformers' arguments and outputs: `past_key_values`, or `cache` from 5.24 on."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    names = {field.name for field in fields(BaseModelOutputWithPast)}
    return "cache" if "cache" in names else "past_key_values"


def shared_prefix(llm: LanguageModel, prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens at their beginning all `prompts` share, up to the first picture in any of them.

    Return 0 for a single prompt, and for models that do not keep the keys and values of all tokens.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=llm.model.config).layers
    # a sliding window, a recurrent state
    if len(prompts) < 2 or any(type(layer) is not DynamicLayer for layer in layers):
        return 0
    columns = enumerate(zip(*prompts, strict=False))
    return next((at for at, ids in columns if ids[0] == PICTURE_ID or len(set(ids)) > 1), 0)


def generate(
    llm: LanguageModel,
    settings: GenerationConfig,
    embeds: Tensor,
    mask: Tensor,
    limit: int,
    *,
    shared: int = 0,
    on_text: Callable[[str], None] | None = None,
) -> list[list[int]]:
    """Return the token ids of one answer per row of the embeddings (B, T, D), whose mask is (B, T).

    An answer has at most `limit` tokens and does not include the token that ends it. The first `shared` positions must
    be the same in every row, without padding. `on_text` is called with each piece of the answer; it needs a batch of one.
    """
    tokenizer = llm.tokenizer
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
    read = {cache_keyword(): _read_once(llm, embeds[:1, :shared], len(embeds))} if shared else {}
    output = llm.model.generate(
        logits_processor=[_Finite(llm.name)],
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=limit,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else llm.stop_id,
        streamer=llm.streamer(on_text) if on_text is not None else None,
        **read,
        **sampling,
    )
    stops = llm.model.generation_config.eos_token_id
    stop_ids = set(stops if isinstance(stops, list) else [llm.stop_id])
    ends = [next((i for i, token in enumerate(row) if token in stop_ids), len(row)) for row in output.tolist()]
    return [row[:end] for row, end in zip(output.tolist(), ends, strict=True)]


class _Finite:
    """Stop at scores of tokens that are NaN: the answer would be empty, or always the same word."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, False

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if not self.seen and scores.isnan().any():
            raise CheckpointError(
                f"{self.name}: the language model's scores are not numbers. Its weights may hold NaN. "
                "Try: download its weights again, or `llm.dtype: bfloat16` or `float32`"
            )
        self.seen = True  # one look, at the first token: each would wait for the device
        return scores


def _read_once(llm: LanguageModel, prefix: Tensor, rows: int) -> Any:
    """Return a cache with the keys and values of `prefix` (1, T, D), repeated for each of `rows` rows."""
    from transformers import DynamicCache

    cache = DynamicCache(config=llm.model.config)
    with torch.no_grad():
        llm.model.base_model(inputs_embeds=prefix, use_cache=True, **{cache_keyword(): cache})
    cache.batch_repeat_interleave(rows)
    return cache
