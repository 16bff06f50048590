"""CLIP vision towers (arXiv 2103.00020), the towers of LLaVA."""

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

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the vision part of a full CLIP config, or the config itself if it has no such part."""
    nested: Mapping[str, Any] = config.get("vision_config", config)
    return nested


def shape(config: Mapping[str, Any], options: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Shape:
    """Return the shape from a CLIP vision config. Missing keys have the values of ViT-B/32, as in transformers."""
    vision = vision_config(config)
    width, mlp = vision.get("hidden_size", 768), vision.get("intermediate_size", 3072)
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 32)
    positions = (size // patch) ** 2 + 1
    return Shape.vit(
        image_size=image_size or size,
        patch_size=patch,
        width=width,
        layers=vision.get("num_hidden_layers", 12),
        mlp_width=mlp,
        prefix_tokens=1,
        embedding_parameters=width * (1 + 3 * patch * patch + positions + 2),
        block_parameters=4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width,
        norm_parameters=2 * width,
        linears=LINEARS,
    )


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return CLIP's preprocessing: bicubic resize of the shortest edge, centre crop, OpenAI's mean and deviation."""
    side = shape.image_size[0]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def published(width: int, layers: int, heads: int, mlp: int, size: int, patch: int) -> dict[str, Any]:
    """Return the vision config of a hub checkpoint, as published."""
    return {
        "model_type": "clip_vision_model",
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
            name="clip",
            summary="CLIP ViT by OpenAI and compatible models (LLaVA's tower)",
            factory="vita_plugins.clip.tower:ClipTower",
            shape=shape,
            processor=processor,
            model_types=("clip_vision_model", "clip"),
            hub_ids={
                "openai/clip-vit-base-patch32": published(768, 12, 12, 3072, 224, 32),
                "openai/clip-vit-base-patch16": published(768, 12, 12, 3072, 224, 16),
                "openai/clip-vit-large-patch14": published(1024, 24, 16, 4096, 224, 14),
                "openai/clip-vit-large-patch14-336": published(1024, 24, 16, 4096, 336, 14),
            },
            defaults={"select_layer": -2, "select_feature": "patch"},
            opens_blocks=True,
            example=published(32, 3, 4, 64, 56, 14),
        )
    ]
