"""The defaults of a tower that a multimodal checkpoint states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import init_empty_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vita_core import Stated
from vita_plugins.transformers.finding import vision_config, whole_config
from vita_plugins.transformers.geometry import build

LAYER, FEATURE = "vision_feature_layer", "vision_feature_select_strategy"


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return which features of a multimodal checkpoint's vision part its language model gets.

    They are attributes of the config's class, which has defaults for them.
    """
    if config.get("model_type") not in CONFIG_MAPPING:
        return {}
    whole, found = whole_config(config), {}
    # ViP-LLaVA of older versions calls it vision_feature_layers
    layer, feature = getattr(whole, LAYER, getattr(whole, f"{LAYER}s", None)), getattr(whole, FEATURE, None)
    if layer is not None:
        found["select_layer"] = Stated(layer if isinstance(layer, int) else list(layer), LAYER)
    if feature is not None:  # "default" drops CLS, and "full" keeps all tokens
        kept = "cls_patch" if feature == "full" and _has_cls(config) else "patch"
        found["select_feature"] = Stated(kept, FEATURE)
    return found


def _has_cls(config: Mapping[str, Any]) -> bool:
    with init_empty_weights():
        model = build(vision_config(config))
    return any("class_embedding" in name or "cls_token" in name for name, _ in model.named_parameters())
