"""InternViT towers (arXiv 2312.14238) of the 300M and the 6B style: VITA's, InternVL's and transformers' own layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape, TowerSpec, VitaError, hookimpl

vita_api = 1
LINEARS = (
    "attention.q_proj",
    "attention.k_proj",
    "attention.v_proj",
    "attention.projection_layer",
    "mlp.fc1",
    "mlp.fc2",
)

# the defaults of transformers' InternVLVisionConfig
NATIVE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 448,
    "norm_type": "layer_norm",
}


def is_native(config: Mapping[str, Any]) -> bool:
    """Return whether this is a config of transformers' own InternVL, a whole model or its vision part."""
    return config.get("model_type") in ("internvl", "internvl_vision")


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the vision part of an InternVL config, or the config itself if it has no such part.

    The keys of transformers' own InternVL are returned under InternViT's names. Raises VitaError for patches that are not square.
    """
    vision: Mapping[str, Any] = config.get("vision_config", config)
    if not is_native(config):
        return vision
    patch = vision.get("patch_size", 14)
    sides = {patch} if isinstance(patch, int) else set(patch)
    if len(sides) != 1:
        raise VitaError(f"config.json: patch_size is not square: {patch}. Try: a checkpoint with square patches")
    names = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias"}
    own = {name: vision.get(key, False) for name, key in names.items()}
    return {**NATIVE, **vision, **own, "patch_size": sides.pop()}


def defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tower's defaults. VITA halves the features before the pixel shuffle, and its checkpoints were trained so.

    A checkpoint of transformers' own InternVL gets the library's features.
    """
    plain = {"select_layer": -1, "select_feature": "patch"}
    return plain if is_native(config) else {**plain, "feature_scale": 0.5, "pixel_shuffle": 0.5}


def is_rms(vision: Mapping[str, Any]) -> bool:
    """Return whether the config has the 6B style: RMSNorm, norms on queries and keys, no qkv bias."""
    return bool(vision.get("norm_type", "rms_norm") == "rms_norm")


def library_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's config under the keys of transformers' InternVLVisionConfig."""
    if is_native(config):
        return dict(config.get("vision_config", config))
    vision = vision_config(config)
    return {
        "hidden_size": vision["hidden_size"],
        "intermediate_size": vision["intermediate_size"],
        "num_attention_heads": vision["num_attention_heads"],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "hidden_act": vision.get("hidden_act", "gelu"),
        "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
        "norm_type": "rms_norm" if is_rms(vision) else "layer_norm",
        "use_qk_norm": vision.get("qk_normalization", False),
        "attention_bias": vision.get("qkv_bias", True),
    }


def shape(config: Mapping[str, Any], options: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Shape:
    """Return the shape from an InternViT config. Only transformers' own InternVL may have a final norm."""
    vision = vision_config(config)
    width, mlp = vision["hidden_size"], vision["intermediate_size"]
    size, patch = vision["image_size"], vision["patch_size"]
    height, width_px = (size, size) if isinstance(size, int) else size
    norm = width if is_rms(vision) else 2 * width
    qkv_bias = 3 * width if vision.get("qkv_bias", True) else 0
    qk_norm = 2 * width if vision.get("qk_normalization", False) else 0
    attention = 4 * width * width + width + qkv_bias + qk_norm
    positions = (
        (height // patch) * (width_px // patch) + 1 if vision.get("use_absolute_position_embeddings", True) else 0
    )
    tokens = 1 + bool(vision.get("use_mask_token", False))
    return Shape.vit(
        image_size=image_size or (height, width_px),
        patch_size=patch,
        width=width,
        layers=vision["num_hidden_layers"],
        mlp_width=mlp,
        prefix_tokens=1,
        embedding_parameters=width * (3 * patch * patch + 1 + tokens + positions),
        block_parameters=attention + 2 * width * mlp + mlp + width + 2 * norm + 2 * width,
        norm_parameters=None if vision.get("use_mean_pooling", True) else 2 * width,
        linears=LINEARS,
    )


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return InternViT's preprocessing: the same as CLIP's, but with ImageNet's mean and deviation."""
    side = shape.image_size[0]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def published(width: int, layers: int, heads: int, mlp: int, *, rms: bool) -> dict[str, Any]:
    """Return the vision config of a hub checkpoint, as published (448 pixels, patch size 14)."""
    return {
        "model_type": "intern_vit_6b",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "image_size": 448,
        "patch_size": 14,
        "norm_type": "rms_norm" if rms else "layer_norm",
        "qk_normalization": rms,
        "qkv_bias": not rms,
    }


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="internvit",
            summary="InternViT 300M and 6B (VITA-1.5's tower)",
            factory="vita_plugins.internvit.tower:InternVitTower",
            shape=shape,
            processor=processor,
            model_types=("intern_vit_6b", "internvl_chat", "internvl", "internvl_vision"),
            hub_ids={
                "OpenGVLab/InternViT-300M-448px": published(1024, 24, 16, 4096, rms=False),
                "OpenGVLab/InternViT-300M-448px-V2_5": published(1024, 24, 16, 4096, rms=False),
                "OpenGVLab/InternViT-6B-448px-V1-5": published(3200, 45, 25, 12800, rms=True),
            },
            defaults=defaults,
            opens_blocks=True,
            example={**published(32, 3, 4, 64, rms=False), "image_size": 56},
        )
    ]
