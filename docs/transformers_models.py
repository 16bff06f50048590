"""Small models of transformers with random weights, saved by transformers, and their hidden states by transformers itself."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto import configuration_auto, modeling_auto

from vita_plugins.transformers.finding import model_class

CONFIGS = configuration_auto.CONFIG_MAPPING
CLASSIFIERS = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
MODELS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "transformers.json").read_text())
"""By model type, a small model and where transformers has its hidden states.

config: values of its config. size: the side of its pictures, if the config has none. states: the field of the model's output
with the hidden states in row-major order, if it is not ``hidden_states``. hooks: the modules whose outputs are the hidden
states, if no field has them; ``*`` stands for all children, ``-1`` for the last, ``0::2`` for every second. channels_last:
whether maps are (B, rows, cols, C).
"""


def saved(model: nn.Module, folder: Path) -> Any:
    """Return the model with random values in all parameters, saved as transformers saves it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # the others are tables of positions
                parameter.normal_(0.05, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.eval().save_pretrained(folder)  # type: ignore[operator]  # a model of transformers
    return model


def small(model_type: str) -> Any:
    """Return the small config of a model type."""
    return CONFIGS[model_type](**MODELS[model_type]["config"])


def whole(model_type: str, folder: Path) -> Any:
    """Return the small vision model of a model type, saved."""
    found = model_class(small(model_type))
    assert found is not None
    return saved(found(small(model_type)), folder)


def classifier(model_type: str, folder: Path) -> Any:
    """Return the small model of a model type with a head that classifies pictures, saved."""
    found = CLASSIFIERS[type(small(model_type))]
    return saved((found[0] if isinstance(found, tuple) else found)(small(model_type)), folder)


def settings(folder: Path, model_type: str = "", **changes: Any) -> dict[str, Any]:
    """Return the section ``tower:`` of a config that opens the saved model."""
    size = MODELS.get(model_type, {}).get("size")
    stated = {} if size is None else {"image_size": size}
    return {"type": "transformers", "weights": str(folder), **stated, **changes}


def library_states(model: Any, pixels: Tensor, layers: int = 0) -> list[Tensor | None]:
    """Return the hidden states by transformers: of the embeddings, and of each of the `layers`, or None."""
    row = MODELS.get(model.config.model_type, {})
    kept: list[Tensor | None] = [None]
    hooks = [
        module.register_forward_hook(lambda _, args, output: kept.append(first(output)))
        for module in modules(model, row.get("hooks"))
    ]
    given: dict[str, Any] = {}
    if model.config.model_type == "vit_mae":  # unmasked and in order
        model.config.mask_ratio, side = 0.0, model.config.patch_size
        given["noise"] = torch.arange(float(pixels.shape[-2] // side * (pixels.shape[-1] // side))).expand(
            len(pixels), -1
        )
    if "size" not in row and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        given["interpolate_pos_encoding"] = True
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True, **given)
    for hook in hooks:
        hook.remove()
    states: Sequence[Tensor] = getattr(output, row.get("states", "hidden_states"), ()) or ()
    if hooks:
        return [*states[:1], *kept[1:]]
    return [None] * (layers + 1 - len(states)) + [*states]


def modules(model: nn.Module, pattern: str | None) -> list[nn.Module]:
    """Return the modules that a pattern of `MODELS` names."""
    found = [] if pattern is None else [model]
    for word in [] if pattern is None else pattern.split("."):
        if word == "*" or "::" in word:
            start, _, step = word.partition("::")
            found = [
                child for one in found for child in [*one.children()][int(start or 0) if step else 0 :: int(step or 1)]
            ]
        elif word == "-1":
            found = [[*one.children()][-1] for one in found]
        else:
            found = [one.get_submodule(word) for one in found]
    return found


def first(output: Any) -> Tensor:
    """Return the first tensor of a module's output."""
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def patches_of(state: Tensor, prefix: int, *, channels_last: bool = False) -> Tensor:
    """Return the patch tokens (B, N, C) of a hidden state."""
    if state.ndim == 4:
        return state.flatten(1, 2) if channels_last else state.flatten(2).transpose(1, 2)
    return state[:, prefix:]
