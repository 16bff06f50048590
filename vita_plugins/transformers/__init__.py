"""Vision encoders of Hugging Face transformers: a whole model, or the vision part of a model of pictures and texts."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_core import TowerSpec, hookimpl

vita_api = 1


TIMM = ("timm_wrapper", "timm_backbone", "edgetam", "edgetam_video", "edgetam_vision_model")
"""Models of transformers whose encoder is one of timm. The tower `timm` opens them."""


def mentions(model_type: str) -> bool:
    """Return whether the tables of the installed transformers may hold a ``model_type``. Importing the library takes seconds."""
    found = importlib.util.find_spec("transformers")
    places = (found.submodule_search_locations if found else None) or []
    tables = [file for place in places for file in Path(place, "models", "auto").glob("*config*.py")]
    tables += [file for place in places for file in Path(place, "models", "auto").glob("*mappings*.py")]
    return not tables or any(f'"{model_type}"' in file.read_text(encoding="utf-8") for file in tables)


def recognises(config: Mapping[str, Any]) -> bool:
    """Return whether transformers has the config's ``model_type``, or the checkpoint brings the code of an encoder.

    As this tower is a fallback, it imports the library only if no other tower opens the checkpoint.
    """
    model_type = config.get("model_type")
    if "AutoModel" in (config.get("auto_map") or {}):
        return True
    if not isinstance(model_type, str) or model_type in TIMM or "architecture" in (config.get("vision_config") or {}):
        return False  # the tower `timm` opens it
    if not mentions(model_type):
        return False
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default layer and tokens: those that a multimodal checkpoint states, or the last layer's patches."""
    usual = {"select_layer": -1, "norm": False, "select_feature": "patch"}
    if "vision_config" not in config:
        return usual
    from vita_plugins.transformers.stating import stated

    return usual | stated(config)


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="transformers",
            summary="vision encoders of transformers: DINOv2/v3, ViT, Swin, SAM, Qwen-VL, V-JEPA 2, ...",
            factory="vita_plugins.transformers.opening:make_tower",
            shape="vita_plugins.transformers.opening:shape",  # a string, because the module imports torch
            processor="vita_plugins.transformers.opening:processor",
            recognises=recognises,
            defaults=defaults,
            options="vita_plugins.transformers.options:Options",
            example={
                "model_type": "dinov2",
                "hidden_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "image_size": 56,
                "patch_size": 14,
            },
            fallback=True,
            remote_code=True,
        )
    ]
