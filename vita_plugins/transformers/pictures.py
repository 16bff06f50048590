"""The size and the preprocessing of pictures, from the checkpoint's own files and the library's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from vita_core import Shape, VitaError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
"""The normalisation of DINOv2's published checkpoints. Their image processor's own default is CLIP's."""


TILING = ("Aria", "BridgeTower", "Cohere2Vision", "GotOcr2", "Granite4", "Llama4", "LlavaNext", "LlavaOnevision", "Mllama",
          "Molmo2", "Ovis2", "PerceptionLM", "VideoLlava")  # fmt: skip
"""How the names of image processors start that give no plain batch of pictures of one size."""


def pair(size: Any) -> tuple[int, int] | None:
    """Return (height, width) for an integer, a pair, or a dict of height and width, and None for anything else."""
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if size else None


def prepared_size(preprocessor: Mapping[str, Any]) -> tuple[tuple[int, int] | None, str]:
    """Return (height, width) of the pictures that a preprocessor config makes, or None if it depends on the picture.

    The second value is the key that states it.
    """
    size, crop = preprocessor.get("size"), preprocessor.get("crop_size")
    if crop is not None and preprocessor.get("do_center_crop", True):
        return pair(crop), "crop_size"
    if isinstance(size, Mapping) and "crop_pct" in preprocessor:  # ConvNeXt's: the edge is that of a square
        return pair(size.get("shortest_edge")), "size"
    return pair(size) if preprocessor.get("do_resize", True) else None, "size"


def stated_size(
    part: PreTrainedConfig, asked: tuple[int, int] | None, preprocessor: Mapping[str, Any] | None
) -> tuple[tuple[int, int], str | None]:
    """Return (height, width): as asked, else of the pictures that the checkpoint's processor makes, else of the model's config.

    The second value says which, as `Shape.size_from`. Raises VitaError if none states a size.
    """
    made, key = prepared_size(preprocessor) if preprocessor else (None, "")
    # SAM 2's is that of its backbone, and V-JEPA 2's is called crop_size
    configs = [part, *(getattr(part, name, None) for name in part.sub_configs)]
    stated = (pair(getattr(one, name, None)) for one in configs for name in ("image_size", "crop_size"))
    own = next((size for size in stated if size), None)
    found = asked or made or own
    if found is None:
        raise VitaError(
            "tower.image_size: missing, and neither config.json nor preprocessor_config.json states the size of the "
            "pictures. Try: `tower.image_size: 224`, or the size that the model was trained with"
        )
    return found, f"preprocessor: {key}" if made and not asked else None


def one_picture(made: Mapping[str, Any], shape: Shape) -> Mapping[str, Any]:
    """Return a preprocessor config that makes one picture of the encoder's size.

    The processors of some multimodal models cut tiles or give other arguments besides. `made` is returned if it is not one
    of them. What they make of the whole picture is a resize to a square.
    """
    if not str(made.get("image_processor_type")).startswith(TILING):
        return made
    kept = {
        key: made[key] for key in ("image_mean", "image_std", "rescale_factor", "resample") if made.get(key) is not None
    }
    height, width = shape.image_size
    size = {"height": height, "width": width}
    return {"image_processor_type": "CLIPImageProcessor", "size": size, "do_center_crop": False, **kept}


def processor(config: Mapping[str, Any], shape: Shape, preprocessor: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the checkpoint's preprocessor config, or the settings of the model's image processor in transformers.

    They are for pictures or videos of the encoder's size.
    """
    if preprocessor is not None:
        return one_picture(preprocessor, shape)
    model_type = config["model_type"]
    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    # DINOv2 with registers and DINOv3's ConvNeXt have none of their own
    usual = "DINOv3ViTImageProcessor" if config["model_type"].startswith("dinov3") else "BitImageProcessor"
    kind = (
        known if isinstance(known, str) else known.get("torchvision", usual)
    )  # older versions: the name of video processors
    made: dict[str, Any] = dict(getattr(transformers, f"{kind}Pil", getattr(transformers, kind))().to_dict())
    if (plain := one_picture(made, shape)) is not made:
        return {**plain, "resample": int(made["resample"])}
    if not made.get("size"):  # GLPN's and Swin2SR's keep the size of the picture
        made |= {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {}, "resample": 3}
        made["do_normalize"] = bool(made.get("do_normalize"))
    height, width = shape.image_size
    square = {"height": height, "width": width}
    larger = made["size"].get("shortest_edge", 1) / made["crop_size"]["height"] if made.get("do_center_crop") else 1
    edge = {"shortest_edge": round(min(height, width) * larger)}
    made["size"] = edge if "shortest_edge" in made["size"] else square
    if made.get("do_center_crop"):
        made["crop_size"] = square
    made["resample"] = int(made["resample"])
    return {**made, **IMAGENET} if config["model_type"].startswith("dino") else made
