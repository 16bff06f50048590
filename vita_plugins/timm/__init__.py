"""Every encoder of timm: DINOv2/v3, PE, AIMv2, ConvNeXt, and hundreds more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape, TowerSpec, VitaError, hookimpl

vita_api = 1

RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def own_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return timm's config: the whole, or that of the encoder in a model of transformers."""
    if config.get("model_type") == "timm_backbone":
        return {"architecture": config.get("backbone")}
    part = config.get("vision_config")
    whole = part if isinstance(part, Mapping) else config
    if str(whole.get("model_type")).startswith("edgetam"):
        whole = whole.get("backbone_config", whole)
    return whole if whole is not config and "architecture" in whole else config


def recognises(config: Mapping[str, Any]) -> bool:
    """Return whether timm builds the encoder: a config.json of timm has an ``architecture`` and a ``pretrained_cfg``."""
    return ("architecture" in config and "pretrained_cfg" in config) or own_config(config) is not config


def processor(
    config: Mapping[str, Any],
    shape: Shape,
    options: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Return timm's evaluation preprocessing: resize to size / crop_pct, then a centre crop.

    The shortest edge is resized, both edges for ``crop_mode: squash``, or the longest edge for ``crop_mode: border``, where
    the crop has a border of the mean color. For a NaFlex ViT, the picture keeps its aspect. A checkpoint that transformers
    saved has an image processor of its own, which is used as it is.
    """
    given = options or {}
    asked = {key: given[key] for key in ("crop_pct", "crop_mode") if given.get(key) is not None}
    if asked and (preprocessor or shape.native is not None):
        reason = (
            "has an image processor of its own" if preprocessor else "takes pictures of any size, which are not cut"
        )
        raise VitaError(f"tower.options.{next(iter(asked))}: this encoder {reason}. Try: leave it out")
    if preprocessor:
        return preprocessor
    data = {**own_config(config).get("pretrained_cfg", {}), **asked}
    values = {
        "resample": RESAMPLE[data.get("interpolation", "bicubic")],
        "image_mean": list(data.get("mean", (0.485, 0.456, 0.406))),
        "image_std": list(data.get("std", (0.229, 0.224, 0.225))),
    }
    if shape.native is not None:
        budget = {"patch_size": shape.native.patch, "max_num_patches": int(shape.native.max_tokens)}
        return {"image_processor_type": "Siglip2ImageProcessor", **budget, **values}
    height, width = shape.image_size
    edges = [int(side / (data.get("crop_pct") or 0.875)) for side in (height, width)]
    mode = data.get("crop_mode")
    size: dict[str, Any] = {"size": {"height": edges[0], "width": edges[1]}}
    if mode == "border":
        size |= {"keep_aspect": "inside", "fill_color": [round(255 * value) for value in values["image_mean"]]}
    elif mode != "squash":
        size = {"size": {"shortest_edge": edges[0]}} if height == width else {**size, "keep_aspect": "around"}
    return {
        "image_processor_type": "CLIPImageProcessor",
        **size,
        "crop_size": {"height": height, "width": width},
        "crop_offset": "round",  # timm crops with torchvision, which rounds the corner of the crop
        **values,
    }


def published(architecture: str, size: int, **pretrained: Any) -> dict[str, Any]:
    """Return the config of a hub checkpoint, as published."""
    return {"architecture": architecture, "pretrained_cfg": {"input_size": [3, size, size], **pretrained}}


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="timm",
            summary="any timm encoder, ViT or CNN: DINOv2/v3, PE, AIMv2, ConvNeXt, ...",
            factory="vita_plugins.timm.tower:TimmTower",
            shape="vita_plugins.timm.geometry:shape",  # a string, because the module imports torch
            processor=processor,
            model_types=(
                "timm_wrapper",
                "timm_backbone",
                "edgetam_vision_model",
            ),  # saved by transformers, with timm's keys behind a prefix
            recognises=recognises,
            fallback=True,
            names="vita_plugins.timm.building:written_instead",
            random="vita_plugins.timm.building:described_by_name",
            hub_ids={
                "timm/vit_small_patch14_dinov2.lvd142m": published(
                    "vit_small_patch14_dinov2", 518, interpolation="bicubic", crop_pct=1.0
                ),
                "timm/vit_large_patch14_dinov2.lvd142m": published(
                    "vit_large_patch14_dinov2", 518, interpolation="bicubic", crop_pct=1.0
                ),
            },
            weight_files=("model.safetensors", "pytorch_model.bin", "*.pth"),
            defaults={"select_layer": -1, "select_feature": "patch"},
            options="vita_plugins.timm.options:Options",
            requires="timm",
            attentions=("sdpa", "eager"),
            opens_blocks="vita_plugins.timm.blocks:opened",
            example={**published("vit_tiny_patch16_224", 64), "model_args": {"img_size": 64, "depth": 3}},
        )
    ]
