"""Run a vision model of transformers by its own ``forward``, with hooks on its blocks that take the hidden states."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vita_plugins.transformers.families import Family
from vita_plugins.transformers.pictures import pair


class LastLayerError(Exception):
    """Ends the run of a model after the last selected layer."""


class NoBlock(nn.Module):
    """Takes the place of the first block if only the embeddings are selected. The run ends before it."""


def hidden_states(model: nn.Module, family: Family, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the hidden states of ascending `layers`. Nothing after the last one is run."""
    kept: dict[int, Tensor] = {}
    thread = threading.get_ident()
    blocks = model.get_submodule(family.blocks)

    def keeper(layer: int) -> Callable[[Tensor], None]:
        def keep(state: Tensor) -> None:
            if threading.get_ident() != thread:  # another thread runs the same model, which calls these hooks too
                return
            kept[layer] = state
            if layer == layers[-1]:
                raise LastLayerError

        return keep

    hooks = [watch(blocks, layer, keeper(layer)) for layer in layers]
    try:
        model(**inputs(family, model, pixels))
    except LastLayerError:
        return kept
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("the model did not run its last selected block")


def inputs(family: Family, model: nn.Module, pixels: Tensor) -> dict[str, Any]:
    """Return the arguments of the model's ``forward`` for pixels (B, 3, H, W)."""
    given: dict[str, Any] = {"pixel_values": pixels}
    size, config = tuple(pixels.shape[-2:]), model.config
    if family.interpolates and size != pair(config.image_size):
        given["interpolate_pos_encoding"] = True
    if hasattr(config, "mask_ratio"):  # ViT-MAE shuffles the patches in the order of the noise
        patches = size[0] // config.patch_size * (size[1] // config.patch_size)
        given["noise"] = torch.arange(patches, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
    return given


def watch(blocks: nn.ModuleList, layer: int, keep: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `keep` with the hidden state of a layer when it is reached: (B, T, C) or (B, C, rows, cols).

    Layer 0 is the input of the first block, layer k the output of block k.
    """

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        keep(args[0] if args else next(iter(kwargs.values())))

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    if layer == 0:
        return blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    return blocks[layer - 1].register_forward_hook(after)
