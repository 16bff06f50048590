"""Small multimodal models of transformers, and their vision parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import CONFIGS, VISION, saved
from torch import nn
from transformers.models.auto import modeling_auto

from vita_plugins.transformers.finding import vision_part

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "max_position_embeddings": 64,
}


def _two(vision: str | None, text: str | None, **more: Any) -> dict[str, Any]:
    return {
        "vision_config": {**VISION, "model_type": vision} if vision else VISION,
        "text_config": {**TEXT, "model_type": text} if text else TEXT,
        **more,
    }


CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"

MODELS: dict[str, dict[str, Any]] = {
    "aya_vision": _two(SIGLIP, "cohere2"),
    "cohere2_vision": _two(SIGLIP, "cohere2"),
    "deepseek_vl": _two(SIGLIP, "llama"),
    "gemma3": _two(SIGLIP, "gemma3_text", mm_tokens_per_image=4),
    "internvl": _two("internvl_vision", "qwen2"),
    "llava": _two(CLIP, "llama"),
    "llava_next": _two(CLIP, "llama"),
    "llava_next_video": _two(CLIP, "llama"),
    "llava_onevision": _two(SIGLIP, "qwen2"),
    "modernvbert": _two(SIGLIP, "modernbert"),
    "paligemma": _two(SIGLIP, "gemma"),
    "video_llava": _two(CLIP, "llama"),
    "vipllava": _two(CLIP, "llama"),
}
"""Configs by model type."""

IMAGE_SIDE = {"video_llava": "image_tower"}
"""The module of the vision part, where another module has a config of the same class before it."""


def chat_model(model_type: str, folder: Path, **changes: Any) -> tuple[Any, nn.Module]:
    """A model with random weights, saved as the library saves it, and its vision part."""
    config = CONFIGS[model_type](**MODELS[model_type], **changes)
    mappings = (modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, modeling_auto.MODEL_MAPPING)
    kind = next(mapping[type(config)] for mapping in mappings if type(config) in mapping)
    model = saved(kind(config), folder)
    wanted, side = type(vision_part(config)), IMAGE_SIDE.get(model_type, "")
    return model, next(
        module
        for name, module in model.named_modules()
        if type(getattr(module, "config", None)) is wanted and side in name
    )
