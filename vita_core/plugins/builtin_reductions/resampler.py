"""The rules of `resampler`: learned queries that attend to the tokens, as in Qwen-VL or in Idefics2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vita_core.errors import VitaError
from vita_core.plugins.builtin_reductions.tensors import linear, norm, numbers, query_grid
from vita_core.plugins.reductions import ReductionSpec, Sizes

__all__ = ["RESAMPLER", "qwen_heads", "tensors"]


def qwen_heads(width: int, heads: int | None) -> int:
    """Return the number of heads, by default one for 128 channels. Raises VitaError unless they divide the `width`."""
    heads = heads or max(1, width // 128)
    if width % heads:
        raise VitaError(f"{heads} heads do not divide {width} channels. Try: `heads` that divide `width`")
    if width % 4:
        raise VitaError(
            f"{width} channels cannot hold sines and cosines of rows and columns. Try: a `width` that is a multiple of 4"
        )
    return heads


def _idefics2_widths(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the width of the queries of all heads, and that of the keys."""
    return options["heads"] * options["head_width"], options["kv_heads"] * options["head_width"]


def _sizes(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    queries = options["queries"]
    if options["layout"] == "idefics2":
        if not isinstance(queries, int):
            raise VitaError(
                f"the queries of layout idefics2 have no grid: {queries}. Try: `queries: {math.prod(queries)}`"
            )
        if options["heads"] % options["kv_heads"]:
            raise VitaError(
                f"{options['kv_heads']} kv_heads do not divide {options['heads']} heads. Try: `kv_heads` that divide `heads`"
            )
        return queries, options["width"] or sizes[-1]
    if len(sizes) != 3:
        raise VitaError(
            "layout qwen places the tokens on a grid, and these have none. Try: `layout: idefics2`, which needs no grid, or "
            "leave out what takes the grid away (an earlier step, `select_feature`)"
        )
    width = options["width"] or sizes[-1]
    qwen_heads(width, options["heads"])
    return math.prod(query_grid(queries)), width


def _gated_mlp(key: str, into: int, hidden: int, out: int) -> dict[str, tuple[int, ...]]:
    return (
        linear(f"{key}.gate_proj", hidden, into, bias=False)
        | linear(f"{key}.up_proj", hidden, into, bias=False)
        | linear(f"{key}.down_proj", out, hidden, bias=False)
    )


def tensors(sizes: Sizes, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the key and the shape of each tensor, under the keys of Qwen-VL or of ``Idefics2PerceiverResampler``."""
    queries, width = _sizes(sizes, options)
    if options["layout"] == "qwen":
        shapes: dict[str, tuple[int, ...]] = {"pos_embed": (queries, width), "query": (queries, width)}
        if width != sizes[-1]:
            shapes |= linear("kv_proj", width, sizes[-1], bias=False)
        shapes |= {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
        shapes |= linear("attn.out_proj", width, width) | norm("ln_q", width) | norm("ln_kv", width)
        return shapes | (norm("ln_post", width) | {"proj": (width, width)} if options["post"] else {})
    attended, kept = _idefics2_widths(options)
    shapes = {"latents": (queries, width)}
    if options["width"]:
        shapes |= _gated_mlp("modality_projection", sizes[-1], options["mlp_width"], width)
    for index in range(options["depth"]):
        layer = f"layers.{index}"
        for name in ("input_latents_norm", "input_context_norm", "post_attention_layernorm"):
            shapes |= norm(f"{layer}.{name}", width, bias=False)
        for name, rows in (("q_proj", attended), ("k_proj", kept), ("v_proj", kept)):
            shapes |= linear(f"{layer}.self_attn.{name}", rows, width, bias=False)
        shapes |= linear(f"{layer}.self_attn.o_proj", width, attended, bias=False)
        shapes |= _gated_mlp(f"{layer}.mlp", width, 4 * width, width)
    return shapes | norm("norm", width, bias=False)


def _parameters(sizes: Sizes, options: Mapping[str, Any]) -> int:
    return numbers(tensors(sizes, options), "pos_embed")


def _macs(sizes: Sizes, options: Mapping[str, Any]) -> int:
    queries, width = _sizes(sizes, options)
    tokens, channels = math.prod(sizes[:-1]), sizes[-1]
    if options["layout"] == "qwen":
        projected = tokens * channels * width if channels != width else 0
        attention = 2 * tokens * width * width + 2 * queries * width * width + 2 * queries * tokens * width
        return projected + attention + (queries * width * width if options["post"] else 0)
    attended, kept = _idefics2_widths(options)
    linears = 2 * queries * width * attended + 2 * (tokens + queries) * width * kept + 12 * queries * width * width
    attention = 2 * queries * (tokens + queries) * attended
    before = tokens * options["mlp_width"] * (2 * channels + width) if options["width"] else 0
    return int(before + options["depth"] * (linears + attention))


RENAMES = (
    (r"^(transformer|model)\.", ""),
    (r"^(visual|resampler|connector)\.", ""),
    (r"^(attn_pool|perceiver_resampler)\.", ""),
)
"""What the keys of whole checkpoints of Qwen-VL, MiniCPM-V and Idefics2 have before those of the resampler."""

SKIPS = (
    (r"^(conv1|positional_embedding|ln_pre|transformer|h|wte|ln_f|lm_head|rotary_emb)\b", "not of the resampler"),
    (r"^(vision_model|text_model|vpm|llm)\.", "not of the resampler"),
)
"""The other tensors of such checkpoints."""

RESAMPLER = ReductionSpec(
    name="resampler",
    summary="learned queries that attend to the tokens",
    factory="vita_core.towers.reductions.resampler:resampler",
    sizes=_sizes,
    paper="Qwen-VL, arXiv 2308.12966; Idefics2, arXiv 2405.02246",
    parameters=_parameters,
    macs=_macs,
    tensors=tensors,
    renames=RENAMES,
    skips=SKIPS,
    spatial=False,  # layout idefics2 needs no grid; layout qwen refuses tokens without one itself
    options="vita_core.config.learned_reductions:ResamplerOptions",
    example={"queries": [2, 3], "heads": 2},
)
