"""The shape of an encoder, measured by one run on the meta device: no weights, no memory, and no formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vita_core.errors import VitaError
from vita_core.plugins.shapes import Shape
from vita_core.towers.tapping import watch

__all__ = ["count_macs", "measure", "parameter_count"]

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
    blocks: Sequence[nn.Module] | nn.ModuleList,
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
    states, (steps, *patch_grid), spent = _run(model, blocks, run)
    if frames is None:
        steps = 1
    inside = [parameter_count(block) for block in blocks]
    parameters = [parameter_count(model) - sum(inside) - parameter_count(norm), *inside]
    if len(states) != len(parameters):
        raise VitaError(
            f"{type(model).__name__} does not run its {len(blocks)} blocks once each: it gives {len(states)} hidden states. "
            "Try: another list of blocks, or write the shape function of the tower"
        )
    prefix = 0 if states[0].ndim == 4 else states[0].shape[1] - steps * math.prod(patch_grid)
    stages = []
    for state, own, (start, end) in zip(states, parameters, pairwise([0, *spent]), strict=True):
        rows, cols = state.shape[-2:] if state.ndim == 4 else patch_grid
        if prefix < 0 or (state.ndim != 4 and (0 in (rows, cols) or state.shape[1] != prefix + steps * rows * cols)):
            raise VitaError(
                f"{type(model).__name__}: features of shape {tuple(state.shape)} do not fit a grid of {rows} x {cols}. "
                "Try: write the shape function of the tower, or report this to its author"
            )
        stages.append((state.shape[1 if state.ndim == 4 else 2], (rows, cols), own, end - start))
    shape = Shape.from_stages(size, stages, None if norm is None else parameter_count(norm), prefix, first_layer)
    return replace(shape, frames=frames, steps=steps)


def _run(
    model: nn.Module, blocks: Sequence[nn.Module] | nn.ModuleList, run: Callable[[], object]
) -> tuple[list[Tensor], tuple[int, ...], list[int]]:
    """Return the hidden states, (steps, rows, cols) of the last convolution before them, and the macs up to each.

    The steps of a convolution in two dimensions, which runs frame by frame, are its pictures.
    """
    grids: list[tuple[int, ...]] = [(1, 0, 0)]
    states: list[Tensor] = []
    spent: list[int] = []
    counter = FlopCounterMode(display=False)

    def reached(state: Tensor) -> None:
        states.append(state)
        spent.append(counter.get_total_flops() // 2)

    def convolved(_: nn.Module, args: object, output: Tensor) -> None:
        if not states:
            grids.append((output.shape[2] if output.ndim == 5 else output.shape[0], *output.shape[-2:]))

    kinds = nn.Conv2d | nn.Conv3d
    hooks = [module.register_forward_hook(convolved) for module in model.modules() if isinstance(module, kinds)]
    hooks += [watch(blocks, layer, reached) for layer in range(len(blocks) + 1)]
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return states, grids[-1], spent
