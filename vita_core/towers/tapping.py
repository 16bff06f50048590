"""Run a module by its own ``forward``, and take hidden states from the inputs and outputs of its blocks by hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Blocks", "Convolved", "NoBlock", "hidden_states", "watch"]

Blocks = Sequence[nn.Module] | nn.ModuleList | nn.Sequential

Watch = Callable[[int, Callable[[Tensor], None]], RemovableHandle]


class LastLayerError(Exception):
    """Ends the run of a module after the last selected layer."""


class NoBlock(nn.Module):
    """Takes the place of the first block if only the embeddings are selected. The run ends before it."""


def hidden_states(blocks: Blocks | Watch, run: Callable[[], object], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the hidden states of ascending `layers`, as the blocks give them. Nothing after the last one is run.

    `run` calls the module that has these blocks. Layer 0 is the input of the first block, layer k the output of block k.
    For layers at other places, `blocks` is a function of a layer and another function, which it calls by a hook with the
    hidden state of this layer. It returns the hook.
    """
    place: Watch = partial(watch, blocks) if isinstance(blocks, Sequence | nn.ModuleList | nn.Sequential) else blocks
    kept: dict[int, Tensor] = {}
    thread = threading.get_ident()

    def keeper(layer: int) -> Callable[[Tensor], None]:
        def keep(state: Tensor) -> None:
            if threading.get_ident() != thread:  # another thread runs the same module, which calls these hooks too
                return
            kept[layer] = state
            if layer == layers[-1]:
                raise LastLayerError

        return keep

    hooks = [place(layer, keeper(layer)) for layer in layers]
    try:
        run()
    except LastLayerError:
        return kept
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("the module did not run its last selected block")


def watch(blocks: Blocks, layer: int, keep: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `keep` with the hidden state of a layer when it is reached: (B, T, C) or (B, C, rows, cols)."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        keep(args[0] if args else next(iter(kwargs.values())))

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    if layer == 0:
        return blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    return blocks[layer - 1].register_forward_hook(after)


class Convolved:
    """Remembers, in a ``with`` block, the `grid` (rows, cols) of the last convolution before the first block.

    `grid` is None if there is none. Convolutions in the blocks and in other threads do not count. `steps` are its positions in
    time; those of a convolution in two dimensions, which runs frame by frame, are its pictures.
    """

    def __init__(self, encoder: nn.Module, blocks: Blocks) -> None:
        inside = {module for block in blocks for module in block.modules()}
        self.modules = [
            module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.Conv3d) and module not in inside
        ]
        self.first = blocks[0]
        self.grid: tuple[int, int] | None = None
        self.steps = 1

    def __enter__(self) -> Convolved:
        thread, reached = threading.get_ident(), [False]

        def convolved(_: nn.Module, args: object, output: Tensor) -> None:
            if threading.get_ident() == thread and not reached[0]:
                self.grid = (output.shape[-2], output.shape[-1])
                self.steps = output.shape[2] if output.ndim == 5 else output.shape[0]

        def ended(*_: object) -> None:
            if threading.get_ident() == thread:
                reached[0] = True

        self.hooks = [module.register_forward_hook(convolved) for module in self.modules]
        self.hooks.append(self.first.register_forward_pre_hook(ended))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
