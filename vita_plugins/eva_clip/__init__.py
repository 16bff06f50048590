"""EVA-CLIP towers (arXiv 2303.15389), from the original training checkpoints or directories of open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape, TowerSpec, hookimpl

vita_api = 1

ORIGINAL_L_336 = {
    "image_size": 336,
    "layers": 24,
    "width": 1024,
    "head_width": 64,
    "mlp_ratio": 2.6667,
    "patch_size": 14,
    "rope": True,
    "pt_hw_seq_len": 16,
    "naiveswiglu": True,
    "subln": True,
}
"""The vision config of EVA02-CLIP-L-14-336, as published by its authors."""
TINY = {"eva_model_name": "eva-clip-tiny", "image_size": 56, "layers": 3, "width": 32, "head_width": 8}
TIMM_NAMES = {
    "eva02_large_patch14_clip_336": ORIGINAL_L_336,
    "eva02_large_patch14_clip_224": {**ORIGINAL_L_336, "image_size": 224},
}


def recognises(config: Mapping[str, Any]) -> bool:
    """Return whether this is a config of EVA (it has an ``eva_model_name``) or of open_clip with an EVA model of timm."""
    vision = vision_config(config)
    return "eva_model_name" in vision or vision.get("timm_model_name") in TIMM_NAMES


def vision_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``vision_cfg`` of an EVA or open_clip config, with the keys of EVA's own config."""
    model = config.get("model_cfg", config)
    vision = model.get("vision_cfg", {}) if isinstance(model, Mapping) else {}
    if not isinstance(vision, Mapping):
        return {}
    named: Mapping[str, Any] = TIMM_NAMES.get(vision.get("timm_model_name", ""), {})
    return {**named, **vision}


def mlp_width(vision: Mapping[str, Any]) -> int:
    """Return the width of the gated MLP."""
    return int(vision["width"] * vision["mlp_ratio"])


def shape(config: Mapping[str, Any], options: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Shape:
    """Return the shape from a config of the EVA02 generation, with RoPE, SwiGLU and sub-layer norms."""
    vision = vision_config(config)
    width, mlp = vision["width"], mlp_width(vision)
    for key in ("layers", "head_width", "pt_hw_seq_len"):
        if type(vision[key]) is not int or vision[key] < 1:  # a bool is an int
            raise ValueError(f"vision_cfg.{key}: {vision[key]!r:.80} is not a whole number above 0")
    size, patch = vision["image_size"], vision["patch_size"]
    attention = 4 * width * width + 3 * width + 2 * width  # biases of q, v and the output, and the inner norm
    gated_mlp = 2 * (width * mlp + mlp) + 2 * mlp + mlp * width + width
    return Shape.vit(
        image_size=image_size or size,
        patch_size=patch,
        width=width,
        layers=vision["layers"],
        mlp_width=mlp,
        mlp_matrices=3,
        prefix_tokens=1,
        embedding_parameters=width * (1 + 3 * patch * patch + 1 + (size // patch) ** 2 + 1),
        block_parameters=attention + gated_mlp + 4 * width,
        norm_parameters=2 * width,
    )


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return CLIP's preprocessing: bicubic resize of the shortest edge, centre crop, OpenAI's mean and deviation."""
    side = shape.image_size[0]
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="eva_clip",
            summary="EVA02-CLIP ViT (VITA's EVA tower), built with timm",
            factory="vita_plugins.eva_clip.tower:EvaClipTower",
            shape=shape,
            processor=processor,
            recognises=recognises,
            hub_ids={
                "QuanSun/EVA-CLIP": {"vision_cfg": {**ORIGINAL_L_336, "eva_model_name": "eva-clip-l-14-336"}},
                "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k": {
                    "model_cfg": {"vision_cfg": {"timm_model_name": "eva02_large_patch14_clip_336"}}
                },
            },
            weight_files=(
                "open_clip_model.safetensors",
                "open_clip_pytorch_model.bin",
                "EVA02_CLIP_L_336_psz14*.pt",
                "*.pt",
            ),
            config_file="open_clip_config.json",
            defaults={"select_layer": -2, "select_feature": "patch"},
            requires="timm",
            attentions=("sdpa", "eager"),
            opens_blocks=True,
            example={"vision_cfg": {**ORIGINAL_L_336, **TINY}},
        )
    ]
