"""Small models of transformers with random weights, saved by transformers, and their hidden states by transformers itself."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.auto import configuration_auto, modeling_auto

from vita_plugins.transformers.finding import model_class

CONFIGS = configuration_auto.CONFIG_MAPPING
CLASSIFIERS = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
DATA = json.loads((Path(__file__).parent / "transformers.json").read_text())
MODELS: dict[str, dict[str, Any]] = {name: row for name, row in DATA["models"].items() if name in CONFIGS}
"""By model type, a small model and where transformers has its hidden states.

config: values of its config. size: the side of its pictures, if the config has none. states: the field of the model's output
with the hidden states in row-major order, if it is not ``hidden_states``. hooks: the modules whose outputs are the hidden
states, if no field has them; ``*`` stands for all children, ``-1`` for the last, ``0::2`` for every second. channels_last:
whether maps are (B, rows, cols, C). part: the path of the vision model in a larger one.
"""
ROWS = {**MODELS, **DATA["others"]}
"""Those of `MODELS`, and models that are tested elsewhere, for the table of encoders. tower: the tower that opens the model.
compared: the test that compares its features, where ``forward`` takes more than pixels or gives tokens in another order.
"""
LEFT: dict[str, str] = DATA["left"]
"""Why a type is not counted in the table of encoders, by model type."""
SIZES: dict[str, Any] = DATA["sizes"]
"""Sizes that make other models small. Each config takes those that it knows."""


def saved(model: nn.Module, folder: Path) -> Any:
    """Return the model with random values in all parameters, saved as transformers saves it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # the others are tables of positions
                parameter.normal_(0.05, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(model.eval(), transformers.PreTrainedModel):
            model.save_pretrained(folder)
        else:  # the vision parts of some models are no models of their own
            model.config.save_pretrained(folder)
            save_file(
                {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors"
            )
    return model


def small(model_type: str) -> Any:
    """Return the small config of a model type."""
    kind = CONFIGS[model_type]
    if model_type in ROWS:
        return kind(**ROWS[model_type]["config"])
    known = kind().to_dict()
    return kind(**{key: value for key, value in SIZES.items() if isinstance(known.get(key), type(value))})


def whole(model_type: str, folder: Path) -> Any:
    """Return the small vision model of a model type, saved."""
    config = small(model_type)
    found = model_class(config) or modeling_auto.MODEL_MAPPING[type(config)]
    return saved(found(config), folder).get_submodule(ROWS.get(model_type, {}).get("part", ""))


def classifier(model_type: str, folder: Path) -> Any:
    """Return the small model of a model type with a head that classifies pictures, saved."""
    found = CLASSIFIERS[type(small(model_type))]
    return saved((found[0] if isinstance(found, tuple) else found)(small(model_type)), folder)


def settings(folder: Path, model_type: str = "", **changes: Any) -> dict[str, Any]:
    """Return the section ``tower:`` of a config that opens the saved model."""
    row = ROWS.get(model_type, {})
    stated = {"image_size": row["size"]} if "size" in row else {}
    return {"type": row.get("tower", "transformers"), "weights": str(folder), **stated, **changes}


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
    if not hooks and layers and not isinstance(model, transformers.PreTrainedModel):
        return [None, *block_states(model, pixels, layers)]
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True, **given)
    for hook in hooks:
        hook.remove()
    states: Sequence[Tensor] = getattr(output, row.get("states", "hidden_states"), ()) or ()
    if hooks:
        return [*(states[:1] or [None]), *kept[1:]]
    return [None] * (layers + 1 - len(states)) + [*states]


def block_states(model: nn.Module, pixels: Tensor, layers: int) -> list[Tensor]:
    """Return the output of each of the `layers` of a model that does not give its hidden states."""
    kept: list[Tensor] = []
    blocks = next(found for found in model.modules() if isinstance(found, nn.ModuleList) and len(found) == layers)
    hooks = [block.register_forward_hook(lambda _, args, output: kept.append(first(output))) for block in blocks]
    with torch.no_grad():
        model(pixels)
    for hook in hooks:
        hook.remove()
    return kept


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
