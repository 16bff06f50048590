"""The convolutional classifiers of torchvision: MobileNetV2, ResNet, EfficientNet, ConvNeXt, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import ProjectorSpec, Shape, TowerSpec, VitaError, hookimpl

vita_api = 1


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return torchvision's preprocessing for classification.

    The shortest edge is resized (bilinear) to 8/7 of the crop. A centre crop and ImageNet's mean and deviation follow.
    """
    height, width = shape.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": min(height, width) * 8 // 7},
        "crop_size": {"height": height, "width": width},
        "resample": 2,
        "crop_offset": "round",  # torchvision rounds the corner of the crop, Hugging Face rounds it down
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def features_beside_scores(in_features: int, classes: int) -> int:
    """Return how many channels of a token are features and not class scores. Raises VitaError if there are none."""
    if in_features <= classes:
        raise VitaError(
            f"projector.type: visual_vocabulary needs features and {classes} class scores, but the tower gives {in_features} "
            "channels. Try: `tower.options: {class_scores: true}` and `tower.select_layer: -1` with torchvision or timm"
        )
    return in_features - classes


def projector_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Count the parameters: LayerNorm, the linear layer for the features, the scale of the scores, the table of words."""
    classes, size = options["classes"], options["classes"] + options["words"]
    features = features_beside_scores(in_features, classes)
    return 2 * features + (features + 1) * size + classes + size * out_features


@hookimpl
def vita_projectors() -> list[ProjectorSpec]:
    return [
        ProjectorSpec(
            name="visual_vocabulary",
            summary="mean word embedding under probabilities from class scores and features",
            factory="vita_plugins.torchvision.projector:visual_vocabulary",
            parameters=projector_parameters,
            options="vita_plugins.torchvision.options:ProjectorOptions",
            paper="Ovis: Structural Embedding Alignment for Multimodal Large Language Model, arXiv 2405.20797",
            example={"classes": 5, "words": 7},
        )
    ]


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="torchvision",
            summary="any convolutional classifier of torchvision; a layer is the last map of one resolution",
            factory="vita_plugins.torchvision.tower:TorchvisionTower",
            shape="vita_plugins.torchvision.backbone:shape",  # a string, because the module imports torch
            processor=processor,
            model_types=("torchvision",),
            weight_files=("model.safetensors", "*.pth"),
            defaults={"select_layer": -1, "select_feature": "patch"},
            options="vita_plugins.torchvision.options:Options",
            attentions=(),
            example={"model_type": "torchvision", "architecture": "shufflenet_v2_x0_5", "image_size": 64},
        )
    ]
