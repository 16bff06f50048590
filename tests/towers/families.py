"""Small models of the families that tower `transformers` opens, and their hidden states by the library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from vita_plugins.transformers.families import FAMILIES
from vita_plugins.transformers.finding import model_class

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 56,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "sep_token_id": 1,
}
STAGES = {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}

WHOLE: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": VISION,
    "altclip_vision_model": VISION,
    "beit": {**VISION, "use_relative_position_bias": True, "use_mean_pooling": False},
    "blip_vision_model": VISION,
    "chinese_clip_vision_model": VISION,
    "clip_vision_model": VISION,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "data2vec-vision": {**VISION, "use_relative_position_bias": True},
    "deit": VISION,
    "dinov2": {**VISION, "use_swiglu_ffn": True},
    "dinov2_with_registers": VISION,
    "dinov3_convnext": STAGES,
    "dinov3_vit": {**VISION, "num_register_tokens": 2},
    "ijepa": VISION,
    "internvl_vision": {**VISION, "use_mean_pooling": False},
    "metaclip_2_vision_model": VISION,
    "mlcd_vision_model": VISION,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
    "siglip_vision_model": VISION,
    "vit": VISION,
    "vit_mae": VISION,
    "vit_msn": VISION,
}
"""Models that are an encoder, by model type."""

TWO_TOWERS: dict[str, dict[str, Any]] = {
    name: {"vision_config": VISION, "text_config": TEXT}
    for name in ("aimv2", "blip", "chinese_clip", "clip", "metaclip_2", "siglip")
}
TWO_TOWERS["altclip"] = {"vision_config": VISION, "text_config": {**TEXT, "project_dim": 8}}
"""Models of pictures and texts, by model type."""

VIDEOS: dict[str, dict[str, Any]] = {
    "timesformer": {**VISION, "num_frames": 3},
    "videomae": {**VISION, "num_frames": 4, "decoder_num_hidden_layers": 1},
    "vivit": {**VISION, "num_frames": 4, "tubelet_size": [2, 14, 14]},
    "vjepa2": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_ratio": 2.0,
        "crop_size": 56,
        "patch_size": 14,
        "frames_per_clip": 4,
        "pred_hidden_size": 24,
        "pred_num_hidden_layers": 1,
        "pred_num_attention_heads": 2,
        "num_pooler_layers": 1,
    },
}
"""Encoders of videos, by model type."""

CONFIGS = transformers.models.auto.configuration_auto.CONFIG_MAPPING


def saved(model: nn.Module, folder: Path) -> Any:
    """The model with random values in all parameters, saved as the library saves it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # the others are tables of positions
                parameter.normal_(0.05, 0.2)
    model.eval().save_pretrained(folder)
    return model


def whole(model_type: str, folder: Path) -> Any:
    config = CONFIGS[model_type](**WHOLE[model_type])
    found = model_class(config)
    assert found is not None
    return saved(found(config), folder)


def settings(folder: Path, model_type: str = "", **changes: Any) -> dict[str, Any]:
    options = {"options": {"image_size": 64}} if model_type == "resnet" else {}  # whose config states no size
    return {"type": "transformers", "weights": str(folder), **options, **changes}


def library_states(model: Any, pixels: Tensor) -> Sequence[Tensor]:
    """Every hidden state of a vision model, as the library gives them."""
    kind, more = model.config.model_type, {}
    family = FAMILIES[kind]
    if family.interpolates and pixels.shape[-2:] != (56, 56):
        more["interpolate_pos_encoding"] = True
    if kind == "vit_mae":  # unmasked and in order
        model.config.mask_ratio = 0.0
        patches = pixels.shape[-2] // 14 * (pixels.shape[-1] // 14)
        more["noise"] = torch.arange(float(patches)).expand(len(pixels), -1)
    with torch.no_grad():
        output = model(pixel_values=pixels, output_hidden_states=True, **more)
    states: Sequence[Tensor] = output.hidden_states
    return states


def patches_of(state: Tensor, prefix: int) -> Tensor:
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state[:, prefix:]
