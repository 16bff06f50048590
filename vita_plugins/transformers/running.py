"""The arguments with which the vision models of transformers are run, and the hooks that take their hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vita_core import VitaError, height_width
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.finding import OTHER
from vita_plugins.transformers.recording import first_tensor
from vita_plugins.transformers.tracing import Layer


def interpolates(model: nn.Module | type[nn.Module]) -> bool:
    """Return whether ``forward`` has the argument that interpolates the positions."""
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def first_argument(model: nn.Module | type[nn.Module]) -> str:
    """Return the name of the argument for the pixels. Raises VitaError if ``forward`` needs more than that."""
    known = {name: one for name, one in inspect.signature(model.forward).parameters.items() if name != "self"}
    main = str(getattr(model, "main_input_name", ""))
    chosen = main if main in known else next(iter(known))
    needed = [name for name, one in known.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if len({chosen, *needed}) > 1:
        kind = model if isinstance(model, type) else type(model)
        raise VitaError(
            f"{kind.__name__} needs more than pixels: {', '.join(name for name in needed if name != chosen)}. {OTHER}"
        )
    return chosen


def inputs(family: Family, model: nn.Module, pixels: Tensor) -> dict[str, Any]:
    """Return the arguments of the model's ``forward`` for pixels (B, 3, H, W), or of videos (B, frames, 3, H, W)."""
    given: dict[str, Any] = {first_argument(model): pixels} if family.given is None else family.given(model, pixels)
    given |= dict(family.arguments)
    size, config = tuple(pixels.shape[-2:]), model.config
    if interpolates(model) and size != height_width(getattr(config, "image_size", None)):
        given["interpolate_pos_encoding"] = True
    if config.model_type == "vit_mae":  # it shuffles the patches in the order of the noise
        patches = size[0] // config.patch_size * (size[1] // config.patch_size)
        given["noise"] = torch.arange(patches, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
    return given


def watch(family: Family, model: nn.Module, layer: Layer, keep: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `keep` with the hidden state of a layer when it is reached."""
    module = model.get_submodule(layer.path)

    def take(value: Any) -> None:
        state = first_tensor(value)
        keep(state if family.tokens is None else family.tokens(model, layer.path, state))

    if layer.after:
        return module.register_forward_hook(lambda _, args, output: take(output))

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        take([*args, *kwargs.values()])

    return module.register_forward_pre_hook(before, with_kwargs=True)
