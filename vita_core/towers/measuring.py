"""The shape of an encoder, measured by one run on the meta device: no weights, no memory, and no formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vita_core.errors import VitaError
from vita_core.plugins.shapes import Shape
from vita_core.towers.tapping import Blocks, Convolved, watch

__all__ = ["count_macs", "measure", "parameter_count", "shape_of", "spent_on"]

Output = TypeVar("Output")


def count_macs(run: Callable[[], Output], modules: Iterable[nn.Module] = ()) -> tuple[Output, list[int]]:
    """Return what `run` returns, and the multiply-accumulates up to the end of each call of `modules` and of the run."""
    spent: list[int] = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hooks = [
            module.register_forward_hook(lambda *_: spent.append(counter.get_total_flops() // 2)) for module in modules
        ]
        try:
            output = run()
        finally:
            for hook in hooks:
                hook.remove()
    return output, [*spent, counter.get_total_flops() // 2]


def parameter_count(*modules: nn.Module | None) -> int:
    """Return the number of parameters of all `modules` together."""
    return sum(parameter.numel() for module in modules if module is not None for parameter in module.parameters())


def measure(
    model: nn.Module,
    blocks: Blocks,
    run: Callable[[], object],
    size: tuple[int, int],
    *,
    norm: nn.Module | None = None,
    first_layer: int = 0,
    frames: int | None = None,
) -> Shape:
    """Return the shape of a model, for pictures of `size` (height, width). `run` calls it with such pixels on the meta device.

    An encoder of videos states the number of `frames` of a video. Its steps are the positions in time of that convolution.

    The layers are the input of the first of `blocks`, and the output of each. The patch grid is that of a block's maps, or
    of the last convolution before the first block; the tokens that it does not account for are prefix tokens. Parameters
    outside the blocks and the final `norm` count as those of the embeddings. Raises VitaError if the features do not fit.
    """
    with Convolved(model, blocks) as convolved:
        _, states, spent = spent_on(blocks, run)
    layers = [(state, state.shape[-2:] if state.ndim == 4 else convolved.grid) for state in states]
    steps = 1 if frames is None else convolved.steps
    shape = shape_of(model, blocks, layers, spent, size, norm=norm, first_layer=first_layer, steps=steps)
    return replace(shape, frames=frames)


def spent_on(blocks: Blocks, run: Callable[[], Output]) -> tuple[Output, list[Tensor], list[int]]:
    """Return what `run` returns, the hidden states as the blocks give them, and the multiply-accumulates up to each."""
    states: list[Tensor] = []
    spent: list[int] = []
    counter = FlopCounterMode(display=False)

    def reached(state: Tensor) -> None:
        states.append(state)
        spent.append(counter.get_total_flops() // 2)

    hooks = [watch(blocks, layer, reached) for layer in range(len(blocks) + 1)]
    try:
        with torch.no_grad(), counter:
            output = run()
    finally:
        for hook in hooks:
            hook.remove()
    return output, states, spent


def shape_of(
    model: nn.Module,
    blocks: Blocks,
    layers: Sequence[tuple[Tensor, Sequence[int] | None]],
    spent: Sequence[int],
    size: tuple[int, int],
    *,
    norm: nn.Module | None = None,
    first_layer: int = 0,
    steps: int = 1,
) -> Shape:
    """Return the shape of an encoder from the hidden state, the grid and the multiply-accumulates up to each layer.

    Raises VitaError if the hidden states do not fit the grids, or the blocks.
    """
    inside = [parameter_count(block) for block in blocks]
    parameters = [parameter_count(model) - sum(inside) - parameter_count(norm), *inside]
    name = type(model).__name__
    if not len(layers) == len(spent) == len(parameters):
        raise VitaError(
            f"{name} does not run its {len(blocks)} blocks once each: it gives {len(spent)} hidden states. "
            "Try: another list of blocks, or write the shape function of the tower"
        )
    stages = []
    prefix = None
    for (state, sides), own, (start, end) in zip(layers, parameters, pairwise([0, *spent]), strict=True):
        rows, cols = sides or (0, 0)
        patches = steps * rows * cols
        tokens = patches if state.ndim == 4 else state.shape[1]
        prefix = tokens - patches if prefix is None else prefix
        if prefix < 0 or patches == 0 or tokens != prefix + patches:
            raise VitaError(
                f"{name}: features of shape {tuple(state.shape)} do not fit a grid of {rows} x {cols}. "
                "Try: write the shape function of the tower, or report this to its author"
            )
        if abs(rows * size[1] - cols * size[0]) > max(size):  # more than rounding: the channels are taken for a side
            raise VitaError(
                f"{name}: a grid of {rows} x {cols} for pictures of {size[0]} x {size[1]}, from features of shape "
                f"{tuple(state.shape)}. Try: define `encode` to give tokens (B, T, C)"
            )
        stages.append((state.shape[1 if state.ndim == 4 else 2], (rows, cols), own, end - start))
    norm_parameters = None if norm is None else parameter_count(norm)
    return replace(Shape.from_stages(size, stages, norm_parameters, prefix or 0, first_layer), steps=steps)
