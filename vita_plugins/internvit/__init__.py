"""InternViT towers (arXiv 2312.14238) of the 300M and the 6B style, with VITA's feature scale and pixel shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape, TowerSpec, hookimpl

vita_api = 1


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the vision part of an InternVL chat config, or the config itself if it has no such part."""
    nested: Mapping[str, Any] = config.get("vision_config", config)
    return nested


def is_rms(vision: Mapping[str, Any]) -> bool:
    """Return whether the config has the 6B style: RMSNorm, norms on queries and keys, no qkv bias."""
    return bool(vision.get("norm_type", "rms_norm") == "rms_norm")


def shape(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    """Return the shape from an InternViT config. The encoder has no final norm."""
    vision = vision_config(config)
    width, mlp = vision["hidden_size"], vision["intermediate_size"]
    size, patch = vision["image_size"], vision["patch_size"]
    norm = width if is_rms(vision) else 2 * width
    qkv_bias = 3 * width if vision.get("qkv_bias", True) else 0
    qk_norm = 2 * width if vision.get("qk_normalization", False) else 0
    attention = 4 * width * width + width + qkv_bias + qk_norm
    return Shape.vit(
        image_size=size,
        patch_size=patch,
        width=width,
        layers=vision["num_hidden_layers"],
        mlp_width=mlp,
        prefix_tokens=1,
        embedding_parameters=width * (3 * patch * patch + 1 + 1 + (size // patch) ** 2 + 1),
        block_parameters=attention + 2 * width * mlp + mlp + width + 2 * norm + 2 * width,
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
            model_types=("intern_vit_6b", "internvl_chat"),
            hub_ids={
                "OpenGVLab/InternViT-300M-448px": published(1024, 24, 16, 4096, rms=False),
                "OpenGVLab/InternViT-300M-448px-V2_5": published(1024, 24, 16, 4096, rms=False),
                "OpenGVLab/InternViT-6B-448px-V1-5": published(3200, 45, 25, 12800, rms=True),
            },
            # VITA halves the features before the pixel shuffle, and its checkpoints were trained that way
            defaults={"select_layer": -1, "select_feature": "patch", "feature_scale": 0.5, "pixel_shuffle": 0.5},
            example={**published(32, 3, 4, 64, rms=False), "image_size": 56},
        )
    ]
