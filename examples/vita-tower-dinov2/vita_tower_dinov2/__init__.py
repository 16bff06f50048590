"""DINOv2 vision towers (arXiv 2304.07193), with or without registers (arXiv 2309.16588)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape, TowerSpec, hookimpl

vita_api = 1


def mlp_width(config: Mapping[str, Any]) -> int:
    """Return the width of the MLP. A gated MLP has two thirds of the width, rounded up to a multiple of 8."""
    width = int(config["hidden_size"] * config["mlp_ratio"])
    return (int(width * 2 / 3) + 7) // 8 * 8 if config.get("use_swiglu_ffn") else width


def shape(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    """Return the shape from a DINOv2 config."""
    width, mlp, matrices = config["hidden_size"], mlp_width(config), 3 if config.get("use_swiglu_ffn") else 2
    own_size, patch = config["image_size"], config["patch_size"]
    registers = config.get("num_register_tokens", 0)
    positions = (own_size // patch) ** 2 + 1
    mask_token = 1 if config.get("use_mask_token", True) else 0
    attention = 4 * (width * width + width)
    mlp_parameters = matrices * width * mlp + (matrices - 1) * mlp + width
    return Shape.vit(
        image_size=options.get("image_size") or own_size,
        patch_size=patch,
        width=width,
        layers=config["num_hidden_layers"],
        mlp_width=mlp,
        mlp_matrices=matrices,
        prefix_tokens=1 + registers,
        embedding_parameters=width * (1 + mask_token + registers + positions + 3 * patch * patch + 1),
        block_parameters=attention + mlp_parameters + 4 * width + 2 * width,  # two norms, two layer scales
        norm_parameters=2 * width,
    )


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return DINOv2's preprocessing for evaluation.

    The shortest edge is resized (bicubic) to 8/7 of the crop, 256 for 224. ImageNet's mean and deviation follow.
    """
    side = shape.image_size[0]
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": side * 8 // 7},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def published(width: int, layers: int, heads: int, registers: int = 0, size: int = 518) -> dict[str, Any]:
    """Return the config of a hub checkpoint, as published (patch size 14)."""
    kind = {"model_type": "dinov2_with_registers", "num_register_tokens": registers} if registers else {}
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "image_size": size,
        "patch_size": 14,
        **kind,
    }


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="dinov2",
            summary="DINOv2 ViT, with or without registers",
            factory="vita_tower_dinov2.tower:Dinov2Tower",
            shape=shape,
            processor=processor,
            model_types=("dinov2", "dinov2_with_registers"),
            hub_ids={
                "facebook/dinov2-small": published(384, 12, 6),
                "facebook/dinov2-base": published(768, 12, 12),
                "facebook/dinov2-large": published(1024, 24, 16),
                "facebook/dinov2-with-registers-base": published(768, 12, 12, registers=4),
            },
            defaults={"select_layer": -1, "select_feature": "patch"},
            options="vita_tower_dinov2.options:Options",
            example=published(24, 3, 4, registers=2, size=56),
        )
    ]
