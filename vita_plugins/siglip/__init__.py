"""SigLIP vision towers (arXiv 2303.15343). VITA uses them with S2 (arXiv 2403.13043)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape, TowerSpec, hookimpl

vita_api = 1
LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.out_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the vision part of a full SigLIP config, or the config itself if it has no such part."""
    nested: Mapping[str, Any] = config.get("vision_config", config)
    return nested


def shape(config: Mapping[str, Any], options: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Shape:
    """Return the shape from a SigLIP vision config. Missing keys have the values of base-patch16-224, as in transformers."""
    vision = vision_config(config)
    width, mlp = vision.get("hidden_size", 768), vision.get("intermediate_size", 3072)
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    return Shape.vit(
        image_size=image_size or size,
        patch_size=patch,
        width=width,
        layers=vision.get("num_hidden_layers", 12),
        mlp_width=mlp,
        embedding_parameters=width * (3 * patch * patch + 1 + (size // patch) ** 2),
        block_parameters=4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width,
        norm_parameters=2 * width,
        linears=LINEARS,
    )


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return SigLIP's preprocessing: bicubic resize to a square without a crop, values from -1 to 1."""
    side = shape.image_size[0]
    return {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def published(width: int, layers: int, heads: int, mlp: int, size: int, patch: int) -> dict[str, Any]:
    """Return the vision config of a hub checkpoint, as published."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "image_size": size,
        "patch_size": patch,
    }


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="siglip",
            summary="SigLIP ViT, with or without S2",
            factory="vita_plugins.siglip.tower:SiglipTower",
            shape=shape,
            processor=processor,
            model_types=("siglip_vision_model", "siglip"),
            hub_ids={
                "google/siglip-base-patch16-224": published(768, 12, 12, 3072, 224, 16),
                "google/siglip-large-patch16-384": published(1024, 24, 16, 4096, 384, 16),
                "google/siglip-so400m-patch14-224": published(1152, 27, 16, 4304, 224, 14),
                "google/siglip-so400m-patch14-384": published(1152, 27, 16, 4304, 384, 14),
            },
            defaults={"select_layer": -2, "select_feature": "patch"},
            opens_blocks=True,
            example=published(32, 3, 4, 64, 56, 14),
        )
    ]
