"""InternVL 1.5 to 3 as their authors publish them (``internvl_chat``), without the code in the repository."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError, nearest
from vita_core.layouts.layout import DROPPED, Layout, OldConfig, Rule, dtype_of
from vita_core.weights.sources import Source

__all__ = ["LAYOUT"]

TEMPLATES = {
    "internvl2_5": "internvl2_5",
    "internlm2-chat": "internlm2_chat",
    "Hermes-2": "internlm2_chat",
    "phi3-chat": "phi3_chat",
}
RULES = (
    Rule(r"^vision_model\.", "tower"),
    Rule(r"^mlp1\.", "projector"),
    Rule(r"^language_model\.(?=model\.|lm_head\.)", "llm"),
)


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as the model's own code computes. Raises CheckpointError for what they cannot express."""
    template = config.get("template", "internvl2_5")
    if template not in TEMPLATES:
        raise CheckpointError(
            f"template: unknown value: {template!r}.{nearest(str(template), TEMPLATES)} Try: one of {', '.join(TEMPLATES)}"
        )
    for key, value in (("ps_version", "v2"), ("force_image_size", tile), ("pad2square", False)):
        if (stated := config.get(key) or value) != value:
            raise CheckpointError(f"{key}: unsupported value: {stated!r}. Try: a checkpoint with {key} {value!r}")
    dynamic = config.get("dynamic_image_size", True)
    tiles = {
        "min": config.get("min_dynamic_patch", 1) if dynamic else 1,
        "max": config.get("max_dynamic_patch", 12) if dynamic else 1,
        "thumbnail": bool(dynamic and config.get("use_thumbnail", True)),
    }
    return {
        "tower": {
            "dtype": dtype_of(config),
            "select_layer": config.get("select_layer", -1),
            "select_feature": "patch",
            "feature_scale": 1.0,  # the tower's default for this layout is VITA's 0.5
            "pixel_shuffle": config.get("downsample_ratio", 0.5),
        },
        "projector": {"type": "mlp2x_gelu", "options": {"input_norm": True}},
        "llm": {"dtype": dtype_of(config)},
        "images": {"tiles": tiles},
        "prompt": {
            "template": TEMPLATES[template],
            "image_token": "<IMG_CONTEXT>",
            "image_text": "<img><image></img>",
        },
    }


def decoder(config: OldConfig) -> dict[str, Any]:
    """Return the ``llm_config``, which is a full dump of older versions of transformers."""
    text = config.get("llm_config") or {}
    dropped = [key for key in text if key in DROPPED or "attn_implementation" in key]
    kept = {key: value for key, value in text.items() if key not in dropped}
    return {**kept, "model_type": text.get("model_type", "qwen2")}


def tower_source(own: Source) -> Source:
    """Return the tower's source, with the ``vision_config`` as its config."""
    vision = {"model_type": "intern_vit_6b", **own.config["vision_config"]}
    return Source(own.weights, None, None, None, vision, own.preprocessor, preprocessor_file=own.preprocessor_file)


LAYOUT = Layout(
    name="InternVL (its authors')",
    model_types=("internvl_chat",),
    recognises=lambda config: config.get("model_type") == "internvl_chat" and "vision_config" in config,
    rules=RULES,
    decoder=decoder,
    sections=sections,
    tower_name=lambda config: None,
    tower_source=tower_source,
)
