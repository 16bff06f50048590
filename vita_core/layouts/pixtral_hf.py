"""LLaVA with a Pixtral tower as transformers saves it: each picture keeps its aspect, and a token ends each row."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.hf import check_projector, processor_text, text_config, vision_source
from vita_core.layouts.layout import Layout, OldConfig, dtype_of
from vita_core.layouts.llava_hf import RULES
from vita_core.weights.sources import Source

__all__ = ["LAYOUT"]

# the values of transformers' classes for missing keys
IMAGE_TOKEN, LAYER, STRATEGY = 32000, -2, "default"


def _recognises(config: OldConfig) -> bool:
    vision = config.get("vision_config") or {}
    return config.get("model_type") == "llava" and vision.get("model_type") == "pixtral"


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as transformers' class computes. Raises CheckpointError for an unsupported projector."""
    check_projector(config)
    strategy = config.get("vision_feature_select_strategy", STRATEGY)
    if strategy != "full":
        raise CheckpointError(
            f"vision_feature_select_strategy: {strategy!r} drops a patch of a Pixtral tower, which has no CLS token. "
            "Try: set it to 'full' in config.json"
        )
    layer = config.get("vision_feature_layer", LAYER)
    return {
        "tower": {"dtype": dtype_of(config), "select_layer": layer, "select_feature": "patch"},
        "projector": {"type": "mlp2x_gelu"},
        "llm": {"dtype": dtype_of(config)},
        "images": {"aspect": "square"},
        "prompt": {"template": "chat", "image_token": config.get("image_token_index", IMAGE_TOKEN)},
    }


def file_sections(own: Source) -> dict[str, dict[str, Any]]:
    """Return the tokens that end a row and a picture."""
    names = (("image_break_token", "[IMG_BREAK]"), ("image_end_token", "[IMG_END]"))
    return {"prompt": {"row_tokens": [processor_text(own, key, usual) for key, usual in names]}}


LAYOUT = Layout(
    name="LLaVA with Pixtral",
    model_types=("llava",),
    recognises=_recognises,
    rules=RULES,
    decoder=lambda config: text_config(config, "llama", inherits=True),
    sections=sections,
    file_sections=file_sections,
    tower_name=lambda config: None,
    tower_source=lambda own: vision_source(own, None if own.preprocessor is None else dict(own.preprocessor)),
)
