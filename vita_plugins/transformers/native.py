"""Models of transformers that keep the size of each picture: their shape by the rules of the family, and their packed run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core import NativeSize, NoBlock, Shape, VitaError, hidden_states, parameter_count
from vita_plugins.transformers.experts import routed_matrices
from vita_plugins.transformers.natives import Native
from vita_plugins.transformers.packing import pack, windows

Grid = tuple[int, int]


def remove_heads(model: nn.Module, native: Native, *, merger: bool) -> None:
    """Take the modules after the blocks out of a model. With `merger`, those of its merger stay."""
    unused = [name for name in native.heads if hasattr(model, name)]  # SigLIP 2 may be saved without its head
    for name in [*unused, *([] if merger else native.merger)]:
        head = getattr(model, name)
        none = nn.ModuleList([nn.Identity() for _ in head]) if isinstance(head, nn.ModuleList) else nn.Identity()
        setattr(model, name, none)


def native_shape(model: nn.Module, native: Native, size: NativeSize, pixels: Grid, *, merger: bool) -> Shape:
    """Return the shape of a model, by the rules of its family, for pictures of `pixels` (height, width).

    A matrix of weights costs its number of weights for each token, and attention its two products for each pair of tokens.
    With `merger`, the last layer is the output of the model's merger, and no other one can be selected.
    """
    config: Any = model.config
    grid, blocks = size.grid(*pixels), list(model.get_submodule(native.blocks).children())
    norm = None if native.norm is None else model.get_submodule(native.norm)
    apart = (*native.heads, *([native.between] if native.between else []))
    after, heads = ([getattr(model, name, None) for name in names] for names in (native.merger, apart))
    tokens, width = grid[0] * grid[1], int(getattr(config, "embed_dim", None) or config.hidden_size)
    first = parameter_count(model) - parameter_count(*blocks, norm, *after, *heads)
    stages = [(width, grid, first, tokens * (matrices(model) - matrices(*blocks, *after, *heads)))]
    for index, block in enumerate(blocks):
        more = 0, 0
        if native.between and index == config.insert_layer_id + 1:
            between: Any = model.get_submodule(native.between)
            each = 4 * matrices(between.self_attn) + matrices(between.linear_1, between.linear_2) + 2 * 4**2 * width
            tokens, grid = tokens // 4, (grid[0] // 2, grid[1] // 2)
            more = parameter_count(between), tokens * each
        pairs = sum(length**2 for length in attended(native, config, grid, index))
        macs = tokens * matrices(block) + 2 * width * pairs
        stages.append((width, grid, parameter_count(block) + more[0], macs + more[1]))
    if not merger:
        norm_parameters = None if norm is None else parameter_count(norm)
        return replace(Shape.from_stages(pixels, stages, norm_parameters), native=size)
    side = getattr(config, str(native.merge))
    merged = grid[0] // side, grid[1] // side
    out = int(getattr(config, "out_hidden_size", getattr(config, "adapter_out_dim", config.hidden_size)))
    _, _, parameters, macs = stages[-1]
    parameters += parameter_count(norm, *after)
    channels = out * (1 + (len(config.deepstack_visual_indexes) if native.beside else 0))
    stages[-1] = (channels, merged, parameters, macs + merged[0] * merged[1] * matrices(*after))
    return replace(Shape.from_stages(pixels, stages, first_layer=len(blocks)), native=size)


def matrices(*modules: nn.Module | None) -> int:
    """Return the number of weights of all linear layers, convolutions and chosen experts in `modules`."""
    inside = [*itertools.chain.from_iterable(module.modules() for module in modules if module is not None)]
    plain = sum(it.weight.numel() for it in inside if isinstance(it, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return plain + sum(map(routed_matrices, inside))


def attended(native: Native, config: Any, grid: Grid, index: int) -> list[int]:
    """Return the numbers of tokens that attend to one another in block `index`."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[index] == "conv":
        return []
    if native.tiles:
        side = config.image_size // config.patch_size
        return [side**2] * (grid[0] // side * (grid[1] // side))
    whole = getattr(config, "fullatt_block_indexes", None)
    windowed = kinds[index] == "window_attention" if kinds is not None else whole is not None and index not in whole
    if native.window is None or not windowed:
        return [grid[0] * grid[1]]
    merge = getattr(config, str(native.merge)) if native.in_blocks else 1
    return [len(cells) * merge**2 for cells in windows((grid[0] // merge, grid[1] // merge), native.window(config))]


def encode_native(
    model: nn.Module, native: Native, pictures: Sequence[Tensor], layers: Sequence[int], *, merger: bool
) -> list[tuple[dict[int, Tensor], Grid]]:
    """Run `model` once on all pictures (3, H, W). Return the hidden states (1, rows * cols, C) and the grid of each one.

    With `merger`, the state of the only layer is the output of the model's merger.
    """
    packed = pack(native, model, pictures)
    if merger:
        output = model(**packed.arguments)
        tokens = torch.cat([output.pooler_output, *(getattr(output, native.beside) if native.beside else ())], dim=-1)
        side = getattr(model.config, str(native.merge))
        grids = [(rows // side, cols // side) for rows, cols in packed.grids]
        parts = tokens.split([rows * cols for rows, cols in grids])
        return [({layers[0]: part[None]}, grid) for part, grid in zip(parts, grids, strict=True)]
    kept = hidden_states(model.get_submodule(native.blocks), lambda: model(**packed.arguments), layers)
    if native.between and layers[0] > model.config.insert_layer_id + 1:  # all selected layers have one grid
        packed = packed.joined()
    split = {layer: packed.pictures(state) for layer, state in kept.items()}
    return [({layer: split[layer][index] for layer in layers}, grid) for index, grid in enumerate(packed.grids)]


def check_native(model: nn.Module, native: Native, shape: Shape, *, merger: bool) -> None:
    """Run the first block of a loaded model on a small picture. Raises VitaError if the features differ from the shape.

    The shape of these models is computed by rules, since their code cannot run without values.
    """
    size = shape.native
    assert size is not None
    like = next(model.parameters())
    picture = torch.zeros(3, 2 * size.block, 3 * size.block, dtype=like.dtype, device=like.device)
    first = next(model.get_submodule(native.blocks).children())
    layer = shape.layers if merger else 0 if isinstance(first, NoBlock) else 1
    with torch.no_grad():
        [(states, grid)] = encode_native(model, native, [picture], [layer], merger=merger)
    stage, side = shape.stages[layer], shape.image_size[0] // shape.stages[layer].grid[0]
    expected = 2 * size.block // side, 3 * size.block // side
    found = tuple(states[layer].shape)
    if grid != expected or found != (1, grid[0] * grid[1], stage.channels):
        raise VitaError(
            f"{type(model).__name__}: features of shape {found} for a grid of {expected[0]} x {expected[1]} of "
            f"{stage.channels}. Try: report this to the authors of vita-core"
        )
