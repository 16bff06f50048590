"""ViP-LLaVA as transformers saves it (`VipLlavaForConditionalGeneration`): features of several layers, normed."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.hf import (
    BASE_RULES,
    chat_template,
    check_projector,
    normed_projector,
    text_config,
    vision_source,
)
from vita_core.layouts.layout import Layout, OldConfig, dtype_of
from vita_core.weights.sources import Source

__all__ = ["LAYOUT"]

# the values of transformers' class for missing keys
LAYERS = [-2, -5, -8, -11, 6]
IMAGE_TOKEN = 32000


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as transformers' class computes. Raises CheckpointError for an unsupported projector."""
    check_projector(config)
    kind = str(config["vision_config"].get("model_type"))
    if kind.startswith(("siglip", "pixtral")):
        raise CheckpointError(
            f"vision_config: the first token of a {kind!r} tower is a patch, which transformers' ViP-LLaVA drops. "
            "Try: a checkpoint with a CLIP tower"
        )
    layers = config.get("vision_feature_layer", config.get("vision_feature_layers", LAYERS))
    epsilon = config.get("projector_layernorm_eps", 1e-5)
    return {
        "tower": {"dtype": dtype_of(config), "select_layer": layers, "select_feature": "patch"},
        "projector": {"type": "mlp2x_gelu", "options": {"input_norm": True, "norm_eps": epsilon}},
        "llm": {"dtype": dtype_of(config)},
        "images": {"aspect": "square"},
        "prompt": {"template": "vipllava", "image_token": config.get("image_token_index", IMAGE_TOKEN)},
    }


def file_sections(own: Source) -> dict[str, dict[str, Any]]:
    """Return the prompt format: the checkpoint's own chat template, if it has one."""
    return {"prompt": {"template": "chat"}} if chat_template(own) else {}


LAYOUT = Layout(
    name="ViP-LLaVA",
    model_types=("vipllava",),
    recognises=lambda config: config.get("model_type") == "vipllava" and "vision_config" in config,
    rules=(*BASE_RULES, *normed_projector("projector_layernorm")),
    decoder=lambda config: text_config(config, "llama"),
    sections=sections,
    file_sections=file_sections,
    tower_name=lambda config: None,
    tower_source=lambda own: vision_source(own, None if own.preprocessor is None else dict(own.preprocessor)),
)
