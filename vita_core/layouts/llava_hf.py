"""Hugging Face's converted LLaVA-1.5 and 1.6 (`LlavaForConditionalGeneration`, `LlavaNextForConditionalGeneration`)."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import Layout, OldConfig, Rule, dtype_of
from vita_core.weights.sources import Source

__all__ = ["LAYOUT"]

MODEL_TYPES = ("llava", "llava_next")
FORMATS = {"llama": "vicuna_v1", "mistral": "mistral_instruct"}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""transformers' default, which it does not write to config.json."""
FEATURES = {"default": "patch", "full": "cls_patch"}
# transformers saved the language model under `language_model.` until 4.52, and does so again since 5
RULES = (
    Rule(r"^(?:model\.)?vision_tower\.", "tower"),
    Rule(r"^(?:model\.)?multi_modal_projector\.linear_1\.", "projector", to="0."),
    Rule(r"^(?:model\.)?multi_modal_projector\.linear_2\.", "projector", to="2."),
    Rule(r"^(?:model\.)?image_newline$", "newline", to="newline"),
    Rule(r"^(?:language_model\.)?lm_head\.", "llm", to="lm_head."),
    Rule(r"^(?:language_model\.model|model\.language_model)\.", "llm", to="model."),
)


def _tower(config: OldConfig) -> dict[str, Any]:
    strategy = config.get("vision_feature_select_strategy") or "default"
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
    layer = config.get("vision_feature_layer")
    return {
        "dtype": dtype_of(config),
        "select_layer": -2 if layer is None else layer,
        "select_feature": feature,
    }


def _images(config: OldConfig, tile: int) -> dict[str, Any]:
    if config["model_type"] == "llava":
        return {"aspect": "square"}
    # unlike in LLaVA's own configs, a pinpoint is (height, width)
    grids = [[height // tile, width // tile] for height, width in config.get("image_grid_pinpoints") or PINPOINTS]
    return {"anyres": {"grids": grids, "merge": "spatial_unpad"}}


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as transformers' class computes. Raises CheckpointError for an unsupported projector."""
    activation, bias = config.get("projector_hidden_act", "gelu"), config.get("multimodal_projector_bias", True)
    if activation != "gelu" or not bias:
        raise CheckpointError(
            f"unsupported projector: projector_hidden_act {activation!r}, multimodal_projector_bias {bias!r}. Try: a "
            "checkpoint whose projector has GELU and biases, as LLaVA-1.5 and 1.6 have"
        )
    return {
        "tower": _tower(config),
        "projector": {"type": "mlp2x_gelu"},
        "llm": {"dtype": dtype_of(config)},
        "images": _images(config, tile),
        "prompt": {"template": FORMATS.get(decoder(config)["model_type"], "chat")},
    }


def decoder(config: OldConfig) -> dict[str, Any]:
    """Return the ``text_config``. As in transformers, missing keys have Llama's values."""
    text = config.get("text_config") or {}
    return {**text, "model_type": text.get("model_type", "llama")}


def tower_source(own: Source) -> Source:
    """Return the tower's source, with the ``vision_config`` as its config.

    LLaVA-1.6's image processor cuts tiles, then processes each as CLIP's does. Here ``images.anyres`` cuts the tiles, so
    the tower gets CLIP's processor.
    """
    processor = None if own.preprocessor is None else dict(own.preprocessor)
    if processor is not None and str(processor.get("image_processor_type", "")).startswith("LlavaNext"):
        processor = {key: value for key, value in processor.items() if key not in ("image_grid_pinpoints", "do_pad")}
        processor["image_processor_type"] = "CLIPImageProcessor"
    vision = {"model_type": "clip_vision_model", **own.config["vision_config"]}
    return Source(own.weights, None, None, None, vision, processor, preprocessor_file=own.preprocessor_file)


LAYOUT = Layout(
    name="LLaVA (converted)",
    model_types=MODEL_TYPES,
    recognises=lambda config: config.get("model_type") in MODEL_TYPES and "vision_config" in config,
    rules=RULES,
    decoder=decoder,
    sections=sections,
    tower_name=lambda config: None,
    tower_source=tower_source,
)
