"""Compute the activations of blocks again in the backward pass instead of keeping them (arXiv 1604.06174)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vita_core.errors import PluginError
from vita_core.towers.whole import find_blocks
from vita_core.training.joint import Joint
from vita_core.training.parts import encoders
from vita_core.training.stages import Stage

__all__ = ["recomputed", "recomputing"]


def recomputing(joint: Joint, stage: Stage) -> contextlib.AbstractContextManager[Any]:
    """Return `recomputed` of a model if a stage asks for it (``checkpointing``), else a context that does nothing."""
    return recomputed(joint) if stage.settings.checkpointing else contextlib.nullcontext()


@contextlib.contextmanager
def recomputed(joint: Joint) -> Iterator[list[str]]:
    """Have the blocks of all parts of a model computed again while the block runs. Yield their names.

    Those of an encoder are at its `block_path`, and else as `vita_core.towers.whole.find_blocks` finds them. In a part without
    a list of equal blocks, the elements of every list of modules that is in no other one are.
    """
    blocks = _blocks(joint)
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


def _blocks(joint: Joint) -> dict[str, nn.Module]:
    model = joint.model
    paths = [(tower.vision_tower, tower.block_path) for tower in encoders(model.tower)]
    paths += [(part, None) for part in (*model.tower.reductions, model.projector, model.llm.model)]
    found = [block for root, path in paths if root is not None for block in _of_part(root, path)]
    names = {id(module): name for name, module in joint.named_modules()}
    return {names[id(block)]: block for block in found}


def _of_part(root: nn.Module, path: str | None) -> Iterable[nn.Module]:
    with contextlib.suppress(PluginError):
        return find_blocks(root, path)
    return _outermost(root)  # a chain of convolutions, whose blocks have several classes


def _outermost(root: nn.Module) -> Iterator[nn.Module]:
    """Yield the elements of lists of modules that are in no other such list."""
    for child in root.children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) > 1:
            yield from child
        else:
            yield from _outermost(child)
