"""The rules of `qformer`: BLIP-2's Q-Former, a transformer on learned queries that attend to the tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vita_core.errors import VitaError
from vita_core.plugins.builtin_reductions.tensors import linear, norm, numbers
from vita_core.plugins.reductions import ReductionSpec, Sizes

__all__ = ["QFORMER", "tensors"]


def _sizes(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    hidden, heads = options["hidden_size"], options["heads"]
    if hidden % heads:
        raise VitaError(f"{heads} heads do not divide hidden_size {hidden}. Try: `heads` that divide `hidden_size`")
    return options["queries"], options["width"] or hidden


def tensors(sizes: Sizes, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the key and the shape of each tensor, under the keys of transformers' ``Blip2Model``."""
    queries, width = _sizes(sizes, options)
    hidden, mlp = options["hidden_size"], options["mlp_width"]
    shapes: dict[str, tuple[int, ...]] = {"query_tokens": (1, queries, hidden)} | norm("qformer.layernorm", hidden)
    for index in range(options["depth"]):
        layer = f"qformer.encoder.layer.{index}"
        attentions = {"attention": hidden} | (
            {"crossattention": sizes[-1]} if index % options["cross_every"] == 0 else {}
        )
        for name, channels in attentions.items():
            shapes |= linear(f"{layer}.{name}.attention.query", hidden, hidden)
            shapes |= linear(f"{layer}.{name}.attention.key", hidden, channels)
            shapes |= linear(f"{layer}.{name}.attention.value", hidden, channels)
            shapes |= linear(f"{layer}.{name}.output.dense", hidden, hidden)
            shapes |= norm(f"{layer}.{name}.output.LayerNorm", hidden)
        shapes |= linear(f"{layer}.intermediate_query.dense", mlp, hidden)
        shapes |= linear(f"{layer}.output_query.dense", hidden, mlp) | norm(f"{layer}.output_query.LayerNorm", hidden)
    return shapes | (linear("language_projection", width, hidden) if options["width"] else {})


def _parameters(sizes: Sizes, options: Mapping[str, Any]) -> int:
    return numbers(tensors(sizes, options))


def _macs(sizes: Sizes, options: Mapping[str, Any]) -> int:
    queries, width = _sizes(sizes, options)
    hidden, depth = options["hidden_size"], options["depth"]
    tokens, channels = math.prod(sizes[:-1]), sizes[-1]
    itself = (
        4 * queries * hidden * hidden + 2 * queries * queries * hidden + 2 * queries * hidden * options["mlp_width"]
    )
    crossed = 2 * queries * hidden * hidden + 2 * tokens * channels * hidden + 2 * queries * tokens * hidden
    crossings = -(-depth // options["cross_every"])
    return int(depth * itself + crossings * crossed + (queries * hidden * width if options["width"] else 0))


RENAMES = ((r"^model\.", ""), (r"^(encoder|layernorm)\.", r"qformer.\1."))
"""A ``Blip2QFormerModel`` saved alone has no ``qformer.`` before its keys."""
SKIPS = ((r"^(vision_model|language_model)\.", "not of the Q-Former"),)
"""The other tensors of a checkpoint of BLIP-2."""

QFORMER = ReductionSpec(
    name="qformer",
    summary="BLIP-2's Q-Former, a transformer on learned queries",
    factory="vita_core.towers.reductions.qformer:QFormer",
    sizes=_sizes,
    paper="BLIP-2, arXiv 2301.12597",
    parameters=_parameters,
    macs=_macs,
    tensors=tensors,
    renames=RENAMES,
    skips=SKIPS,
    spatial=False,
    options="vita_core.config.learned_reductions:QFormerOptions",
    example={"queries": 6, "hidden_size": 32, "depth": 2, "heads": 2, "mlp_width": 48, "width": 40},
)
