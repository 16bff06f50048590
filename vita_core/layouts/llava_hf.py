"""Hugging Face's converted LLaVA-1.5 and 1.6 (`LlavaForConditionalGeneration`, `LlavaNextForConditionalGeneration`)."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.hf import BASE_RULES, check_projector, single_pictures, text_config, vision_source
from vita_core.layouts.layout import Layout, OldConfig, Rule, dtype_of

__all__ = ["LAYOUT", "RULES", "anyres_grids", "tower_section"]

MODEL_TYPES = ("llava", "llava_next")
FORMATS = {"llama": "vicuna_v1", "mistral": "mistral_instruct"}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""transformers' default, which it does not write to config.json."""
FEATURES = {"default": "patch", "full": "cls_patch"}
RULES = (
    *BASE_RULES,
    Rule(r"^(?:model\.)?multi_modal_projector\.linear_1\.", "projector", to="0."),
    Rule(r"^(?:model\.)?multi_modal_projector\.linear_2\.", "projector", to="2."),
    Rule(r"^(?:model\.)?image_newline$", "newline", to="newline"),
)


def tower_section(config: OldConfig, strategy: str = "default", layer: int | list[int] = -2) -> dict[str, Any]:
    """Return the ``tower:`` section. `strategy` and `layer` are transformers' defaults for the config's model_type."""
    strategy = config.get("vision_feature_select_strategy") or strategy
    if strategy not in FEATURES:
        raise CheckpointError(
            f"vision_feature_select_strategy: unknown value: {strategy!r}. Try: one of {', '.join(FEATURES)}"
        )
    feature = FEATURES[strategy]
    if str(config["vision_config"].get("model_type")).startswith("siglip"):  # SigLIP has no CLS token to keep or drop
        if strategy == "default":
            raise CheckpointError(
                "vision_feature_select_strategy: 'default' drops a patch of a SigLIP tower, which has no CLS token. "
                "Try: set it to 'full' in config.json"
            )
        feature = "patch"
    stated = config.get("vision_feature_layer")
    return {
        "dtype": dtype_of(config),
        "select_layer": layer if stated is None else stated,
        "select_feature": feature,
    }


def anyres_grids(config: OldConfig, tile: int, pinpoints: list[list[int]]) -> list[list[int]]:
    """Return the grids of tiles. Unlike in LLaVA's own configs, a pinpoint is (height, width)."""
    return [[height // tile, width // tile] for height, width in config.get("image_grid_pinpoints") or pinpoints]


def _images(config: OldConfig, tile: int) -> dict[str, Any]:
    if config["model_type"] == "llava":
        return {"aspect": "square"}
    return {"anyres": {"grids": anyres_grids(config, tile, PINPOINTS), "merge": "spatial_unpad"}}


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as transformers' class computes. Raises CheckpointError for an unsupported projector."""
    check_projector(config)
    return {
        "tower": tower_section(config),
        "projector": {"type": "mlp2x_gelu"},
        "llm": {"dtype": dtype_of(config)},
        "images": _images(config, tile),
        "prompt": {"template": FORMATS.get(decoder(config)["model_type"], "chat")},
    }


def decoder(config: OldConfig) -> dict[str, Any]:
    """Return the language model's config."""
    return text_config(config, "llama", inherits=config["model_type"] == "llava")


LAYOUT = Layout(
    name="LLaVA (converted)",
    model_types=MODEL_TYPES,
    recognises=lambda config: config.get("model_type") in MODEL_TYPES and "vision_config" in config,
    rules=RULES,
    decoder=decoder,
    sections=sections,
    tower_name=lambda config: None,
    # LLaVA-1.6's image processor cuts tiles, then processes each as CLIP's does
    tower_source=lambda own: vision_source(own, single_pictures(own, "LlavaNext", "CLIPImageProcessor")),
)
