"""Compute the activations of blocks again in the backward pass instead of keeping them (arXiv 1604.06174)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vita_core.training.stages import Stage

__all__ = ["recomputed", "recomputing"]


def recomputing(joint: nn.Module, stage: Stage) -> contextlib.AbstractContextManager[Any]:
    """Return `recomputed` of a model if a stage asks for it (``checkpointing``), else a context that does nothing."""
    return recomputed(joint) if stage.settings.checkpointing else contextlib.nullcontext()


@contextlib.contextmanager
def recomputed(root: nn.Module) -> Iterator[list[str]]:
    """Have the blocks of all encoders and decoders in `root` computed again while the block runs. Yield their names.

    A block is an element of a list of modules that is in no other such list.
    """
    blocks = _blocks(root)
    for block in blocks.values():
        block.forward = partial(_again, block, block.forward)
    try:
        yield [*blocks]
    finally:
        for block in blocks.values():
            del block.forward  # the method of its class is behind it


def _again(block: nn.Module, forward: Any, *args: Any, **options: Any) -> Any:
    # a normalisation in train mode would count the batch twice
    counted = any(isinstance(module, _BatchNorm) and module.training for module in block.modules())
    if counted or not torch.is_grad_enabled():
        return forward(*args, **options)
    return checkpoint(forward, *args, use_reentrant=False, **options)


def _blocks(root: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    seen: list[str] = []
    for name, module in root.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in seen)
        if not inside and isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
            seen.append(name)
            found |= {f"{name}.{place}": child for place, child in module.named_children()}
    return found
