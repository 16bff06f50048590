"""The shape of an encoder, measured by one run on the meta device: no weights, no memory, and no formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
) -> Shape:
    """Return the shape of a model, for pictures of `size` (height, width). `run` calls it with such pixels on the meta device.

    The layers are the input of the first of `blocks`, and the output of each. The patch grid is that of a block's maps, or
    of the last convolution before the first block; the tokens that it does not account for are prefix tokens. Parameters
    outside the blocks and the final `norm` count as those of the embeddings. Raises VitaError if the features do not fit.
    """
    states, patch_grid, spent = _run(model, blocks, run)
    inside = [parameter_count(block) for block in blocks]
    parameters = [parameter_count(model) - sum(inside) - parameter_count(norm), *inside]
    if len(states) != len(parameters):
        raise VitaError(
            f"{type(model).__name__} does not run its {len(blocks)} blocks once each: it gives {len(states)} hidden states. "
            "Try: another list of blocks, or write the shape function of the tower"
        )
    prefix = 0 if states[0].ndim == 4 else states[0].shape[1] - patch_grid[0] * patch_grid[1]
    stages = []
    for state, own, (start, end) in zip(states, parameters, pairwise([0, *spent]), strict=True):
        grid = (state.shape[-2], state.shape[-1]) if state.ndim == 4 else patch_grid
        if prefix < 0 or (state.ndim != 4 and (0 in grid or state.shape[1] != prefix + grid[0] * grid[1])):
            raise VitaError(
                f"{type(model).__name__}: features of shape {tuple(state.shape)} do not fit a grid of {grid[0]} x {grid[1]}. "
                "Try: write the shape function of the tower, or report this to its author"
            )
        stages.append((state.shape[1 if state.ndim == 4 else 2], grid, own, end - start))
    return Shape.from_stages(size, stages, None if norm is None else parameter_count(norm), prefix, first_layer)


def _run(
    model: nn.Module, blocks: Sequence[nn.Module] | nn.ModuleList, run: Callable[[], object]
) -> tuple[list[Tensor], tuple[int, int], list[int]]:
    """Return the hidden states, the grid of the last convolution before them, and the multiply-accumulates up to each."""
    grids = [(0, 0)]
    states: list[Tensor] = []
    spent: list[int] = []
    counter = FlopCounterMode(display=False)

    def reached(state: Tensor) -> None:
        states.append(state)
        spent.append(counter.get_total_flops() // 2)

    def convolved(_: nn.Module, args: object, output: Tensor) -> None:
        if not states:
            grids.append((output.shape[-2], output.shape[-1]))

    hooks = [module.register_forward_hook(convolved) for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks += [watch(blocks, layer, reached) for layer in range(len(blocks) + 1)]
    try:
        with torch.no_grad(), counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return states, grids[-1], spent
