"""The rules of `c_abstractor`: Honeybee's convolutions before and behind an adaptive average."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from vita_core.plugins.builtin_reductions.tensors import linear, norm, numbers, query_grid
from vita_core.plugins.reductions import ReductionSpec, Sizes

__all__ = ["C_ABSTRACTOR", "position_grid", "readout_widths", "tensors"]


def position_grid(sizes: Sizes, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (rows, cols) of the learned positions: those that the options state, or the input's grid. None without any."""
    positions = options["positions"]
    if isinstance(positions, bool):
        return (sizes[0], sizes[1]) if positions else None
    return query_grid(positions, "positions")


def _sizes(sizes: Sizes, options: Mapping[str, Any]) -> Sizes:
    rows, cols = query_grid(options["queries"])
    width = options["width"] or sizes[-1]
    position_grid(sizes, options)  # a number of positions that is no square is an error of the plan
    if options["end_tokens"]:
        return rows * cols + options["end_tokens"], width
    return rows, cols, width


def _stages(sizes: Sizes, options: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return (key, places, channels of the input) of each block. Its output has `hidden_size` channels."""
    queries, hidden = math.prod(query_grid(options["queries"])), options["hidden_size"]
    blocks = range(options["depth"])
    first = [(f"net.0.b{index + 1}", sizes[0] * sizes[1], hidden if index else sizes[-1]) for index in blocks]
    return first + [(f"net.2.b{index + 1}", queries, hidden) for index in blocks]


def readout_widths(sizes: Sizes, options: Mapping[str, Any]) -> list[int]:
    """Return the channels before the readout and after each of its linear layers."""
    first = options["hidden_size"] if options["depth"] else sizes[-1]
    return [first, *[options["width"] or sizes[-1]] * options["mlp_depth"]]


def tensors(sizes: Sizes, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the key and the shape of each tensor, under Honeybee's keys."""
    channels, hidden = sizes[-1], options["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {}
    if options["end_tokens"]:
        shapes["eos_tokens"] = (1, options["end_tokens"], options["width"] or channels)
    if (grid := position_grid(sizes, options)) is not None:
        shapes["pos_emb"] = (1, math.prod(grid) + options["cls_position"], channels)
    if options["prenorm"]:
        shapes |= norm("prenorm", channels)
    for key, _, into in _stages(sizes, options):
        squeezed = round(into * 0.25)
        for name, kernel in (("conv1", (into, 1, 1)), ("conv2", (1, 3, 3)), ("conv3", (hidden, 1, 1))):
            shapes |= {f"{key}.{name}.conv.weight": (hidden, *kernel)} | norm(f"{key}.{name}.bn", hidden)
        shapes |= {f"{key}.se.fc1.weight": (squeezed, hidden, 1, 1), f"{key}.se.fc1.bias": (squeezed,)}
        shapes |= {f"{key}.se.fc2.weight": (hidden, squeezed, 1, 1), f"{key}.se.fc2.bias": (hidden,)}
        if into != hidden:
            shapes |= {f"{key}.downsample.conv.weight": (hidden, into, 1, 1)} | norm(f"{key}.downsample.bn", hidden)
    for index, (into, out) in enumerate(pairwise(readout_widths(sizes, options))):
        shapes |= linear(f"readout.{2 * index}", out, into)
    return shapes


def _parameters(sizes: Sizes, options: Mapping[str, Any]) -> int:
    return numbers(tensors(sizes, options))


def _macs(sizes: Sizes, options: Mapping[str, Any]) -> int:
    hidden, queries = options["hidden_size"], math.prod(query_grid(options["queries"]))
    macs = queries * sum(into * out for into, out in pairwise(readout_widths(sizes, options)))
    for _, places, into in _stages(sizes, options):
        shortcut = into * hidden if into != hidden else 0
        macs += places * (into * hidden + 9 * hidden + hidden * hidden + shortcut) + 2 * hidden * round(into * 0.25)
    return macs


RENAMES = ((r"^abstractor\.", ""),)
"""What the keys of Honeybee's whole checkpoints have before those of the C-Abstractor."""
SKIPS = ((r"^(vision_model|language_model)\.", "not of the C-Abstractor"),)
"""The other tensors of such a checkpoint."""

C_ABSTRACTOR = ReductionSpec(
    name="c_abstractor",
    summary="Honeybee's C-Abstractor: convolutions before and behind an adaptive average",
    factory="vita_core.towers.reductions.c_abstractor:CAbstractor",
    sizes=_sizes,
    paper="Honeybee: Locality-enhanced Projector for Multimodal LLM, arXiv 2312.06742",
    parameters=_parameters,
    macs=_macs,
    tensors=tensors,
    renames=RENAMES,
    skips=SKIPS,
    options="vita_core.config.learned_reductions:CAbstractorOptions",
    example={"queries": [3, 4], "hidden_size": 16, "depth": 1},
)
