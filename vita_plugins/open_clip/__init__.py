"""The vision encoder of every model of open_clip: ViT, ResNet, CoCa, and those built with timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import TowerSpec, hookimpl
from vita_plugins.open_clip.pictures import processor

vita_api = 1


def recognises(config: Mapping[str, Any]) -> bool:
    """Return whether this is an ``open_clip_config.json``, or the part of it that describes the model."""
    model = config.get("model_cfg", config)
    named = isinstance(model, Mapping) and {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys()
    return named and isinstance(model["vision_cfg"], Mapping)


@hookimpl
def vita_towers() -> list[TowerSpec]:
    return [
        TowerSpec(
            name="open_clip",
            summary="any encoder of open_clip: OpenCLIP, DFN, CLIPA, CoCa, SigLIP 2, MobileCLIP, PE, ViTamin, ...",
            factory="vita_plugins.open_clip.tower:open_tower",
            shape="vita_plugins.open_clip.building:shape",  # a string, because the module imports torch
            processor=processor,
            recognises=recognises,
            fallback=True,
            names="vita_plugins.open_clip.models:written_instead",
            weight_files=(  # in open_clip's order
                "open_clip_model.safetensors",
                "open_clip_pytorch_model.safetensors",
                "open_clip_pytorch_model.bin",
                "open_clip_pytorch_model.pth",
                "model.safetensors",
                "pytorch_model.bin",
                "pytorch_model.pth",
                "model.pth",
                "*.pt",
            ),
            config_file="open_clip_config.json",
            defaults={"select_layer": -1, "norm": False, "select_feature": "patch"},
            options="vita_plugins.open_clip.options:Options",
            requires="open_clip_torch",
            attentions=("sdpa",),
            example={
                "model_cfg": {
                    "embed_dim": 16,
                    "vision_cfg": {"image_size": 56, "patch_size": 14, "layers": 3, "width": 32, "head_width": 8},
                    "text_cfg": {"context_length": 7, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1},
                },
                "preprocess_cfg": {},
            },
        )
    ]
