"""Find the vision model of a checkpoint: its config and its class, from the config classes of transformers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING, MODEL_MAPPING

from vita_core import VitaError
from vita_plugins.transformers.families import FAMILIES, NATIVE, TWO_TOWERS

OTHER = "Try: another tower (`vita towers` lists them), or a plugin of your own (docs/write-a-plugin.md)"


def vision_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config of the vision model that a ``config.json`` describes.

    It is the part of a larger model if the larger model's config class has such a part. Raises VitaError for a model that
    this tower does not open, with the reason.
    """
    model_type, named = config.get("model_type"), f"model_type {config.get('model_type')!r}"
    if model_type not in CONFIG_MAPPING:
        raise VitaError(
            f"config.json: transformers {transformers.__version__} has no {named}. Try: correct it, or `pip install --upgrade "
            "transformers` if the model is newer"
        )
    whole = CONFIG_MAPPING[model_type].from_dict(dict(config))
    part = vision_part(whole)
    if part is None:
        raise VitaError(f"config.json: {named} has no vision encoder: it takes no pixels. {OTHER}")
    own = type(part).model_type
    if type(part) in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING:
        raise VitaError(f"config.json: {named} takes videos, which is not supported yet. {OTHER}")
    if own.startswith(NATIVE):
        raise VitaError(f"config.json: {named} keeps each picture's own size, which is not supported yet. {OTHER}")
    if part is not whole and model_type not in TWO_TOWERS:
        raise VitaError(f"config.json: the vision part of {named} ({own}) is not supported yet. {OTHER}")
    if own not in FAMILIES:
        raise VitaError(f"config.json: {named} is not supported yet by tower 'transformers'. {OTHER}")
    return part


def vision_part(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """Return the config of the vision model in `config`: of a part, or `config` itself. Return None if there is none."""
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if ("vision" in key or "image" in key) and isinstance(part, PreTrainedConfig):
            return vision_part(part) or part
    return None if model_class(config) is None else config


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that takes pixels among the models with this class of config.

    It is transformers' plain model (``AutoModel``). Some vision parts have none; then it is the plain model of the same
    module.
    """
    if type(config) in MODEL_MAPPING:
        found = MODEL_MAPPING[type(config)]
        classes = list(found) if isinstance(found, tuple) else [found]
    else:
        module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
        classes = [getattr(module, name) for name in module.__all__ if name.endswith("Model")]
        classes = [found for found in classes if getattr(found, "config_class", None) is type(config)]
    taking = [found for found in classes if found.main_input_name == "pixel_values"]
    return taking[0] if taking else None
