"""Find the vision model of a checkpoint: its config and its class, from the config classes of transformers."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING, MODEL_MAPPING

from vita_core import VitaError
from vita_plugins.transformers.families import FAMILIES, REASONS, SAME
from vita_plugins.transformers.remote import TRUSTED, remote_config

OTHER = "Try: another tower (`vita towers` lists them), or a plugin of your own (docs/write-a-plugin.md)"
PIXELS = ("pixel_values", "pixel_values_videos", "image", "flattened_patches", "grid_thw")
"""Arguments of ``forward`` that only a model of pictures or videos has."""
KINDS = r"Model$|Backbone$|Transformer$|Encoder$"
"""How the names of models end that are whole encoders, the preferred first."""


def vision_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config of the vision model that a ``config.json`` describes.

    It is the part of a larger model if the larger model's config class has such a part. Raises VitaError for a model that
    this tower does not open, with the reason.
    """
    model_type, named = config.get("model_type"), f"model_type {config.get('model_type')!r}"
    if model_type not in CONFIG_MAPPING and "auto_map" not in config:
        raise VitaError(
            f"config.json: transformers {transformers.__version__} has no {named}. Try: correct it, or `pip install --upgrade "
            "transformers` if the model is newer"
        )
    whole = whole_config(config)
    part = vision_part(whole, config)
    if part is None:
        reason = REASONS.get(
            str(model_type), "it takes no pixels alone" if "auto_map" in config else "it takes no pixels"
        )
        raise VitaError(f"config.json: {named} has no vision encoder: {reason}. {OTHER}")
    own = type(part).model_type
    if part is not whole:
        named = f"the vision part of {named} ({own})"
    if own in REASONS:
        raise VitaError(f"config.json: {named} is not opened: {REASONS[own]}. {OTHER}")
    if type(part) in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING and own not in FAMILIES:
        raise VitaError(f"config.json: {named} takes videos, which is not supported yet. {OTHER}")
    return part


def whole_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config of the model that a ``config.json`` describes, of a type that transformers has or of its own code.

    As in transformers, code that the user allows is used also for a type that the library has.
    """
    if "auto_map" in config and (TRUSTED in config or config.get("model_type") not in CONFIG_MAPPING):
        return remote_config(config)
    # a copy of the parts as well: some classes of older versions take keys out of them
    return CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(dict(config)))


def vision_part(config: PreTrainedConfig, given: Mapping[str, Any] | None = None) -> PreTrainedConfig | None:
    """Return the config of the vision model in `config`: of a part, or `config` itself. Return None if there is none.

    The class of a part comes from the class of the whole. `given` is the ``config.json`` that `config` was made from.
    """
    found = next(_parts(config, given or {}, _says_vision(type(config).model_type)), None)
    if found is None and model_class(config) is not None:
        return config
    backbone = getattr(config, "backbone_config", None)  # Depth Anything has no model without its head
    if found is None and isinstance(backbone, PreTrainedConfig) and model_class(backbone) is not None:
        return backbone
    return found


def _parts(config: PreTrainedConfig, given: Mapping[str, Any], inside: bool = False) -> Iterator[PreTrainedConfig]:
    """Yield the vision models below `config`, those first whose keys say so. `inside` a vision model only those."""
    for key in sorted(config.sub_configs, key=lambda key: not _says_vision(key)):
        part, own = getattr(config, key, None), given.get(key) or {}
        other = inside and not _says_vision(key) and key != "encoder"  # TrOCR's and Donut's
        # a detector's backbone is a part of its encoder
        if not isinstance(part, PreTrainedConfig) or key == "backbone_config" or other:
            continue
        below = list(_parts(part, own, _says_vision(key)))
        for inner in below:
            # an old config that calls the part as a whole, such as a nested `clip` or `llava`, holds the values of the part
            flat = (
                own and _says_vision(key) and not any(_says_vision(name) and name in own for name in part.sub_configs)
            )
            values = {name: value for name, value in own.items() if name != "model_type"}
            yield type(inner).from_dict(values) if flat else inner
        if not below and model_class(part) is not None:
            yield part


def _says_vision(key: str) -> bool:
    return "vision" in key or "image" in key


def model_class(config: PreTrainedConfig) -> type[nn.Module] | None:
    """Return the class that takes pixels, and no texts, among the models with this class of config.

    It is transformers' plain model (``AutoModel``) if that does. Many vision parts have none; then it is the plain model in
    the modules of the config's package. Some of these are not models of their own.
    """
    kind = type(config)
    if kind.model_type in SAME:
        kind = CONFIG_MAPPING[SAME[kind.model_type]]
    remote: type[nn.Module] | None = getattr(kind, "remote_class", None)
    if remote is not None:
        return None if "input_ids" in inspect.signature(remote.forward).parameters else remote
    if kind in MODEL_MAPPING:
        found = MODEL_MAPPING[kind]
        classes = list(found) if isinstance(found, tuple) else [found]
    else:
        named = [(re.search(KINDS, model.__name__), model) for model in _classes(kind)]
        classes = [model for match, model in sorted(named, key=lambda pair: _rank(pair[0])) if match]
    return next((model for model in classes if _takes_pixels(model)), None)


def _rank(match: re.Match[str] | None) -> int:
    return 0 if match is None else KINDS.index(match[0])


def _classes(kind: type[PreTrainedConfig]) -> Iterator[type[nn.Module]]:
    """Yield the models in the package of a class of config that are built from it."""
    package = kind.__module__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name.startswith(("modeling_", "vision")):
            for model in vars(importlib.import_module(f"{package}.{module.name}")).values():
                if inspect.isclass(model) and issubclass(model, nn.Module) and model.__module__.startswith(package):
                    # the class of the whole model's config can be inherited
                    made_of = (getattr(model, "config_class", None), _annotation(model))
                    if kind in made_of or kind.__name__ in made_of:
                        yield model


def _annotation(model: type[nn.Module]) -> Any:
    """Return the type of the first argument that a model is made of."""
    parameters = [*inspect.signature(model.__init__).parameters.values()]
    return parameters[1].annotation if len(parameters) > 1 else None


def _takes_pixels(model: type[nn.Module]) -> bool:
    """Return whether ``forward`` takes pixels, and no texts, and gives features and not classes."""
    given = inspect.signature(model.forward).parameters
    taken = any(name in given for name in PIXELS)
    if model.__name__.endswith("Backbone"):  # Florence-2's calls its pixels `hidden_states`
        taken = taken or getattr(model, "main_input_name", "") == "pixel_values"
    return taken and "input_ids" not in given and "labels" not in given
