"""The size and the preprocessing of pictures, from the checkpoint's own files and the library's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from vita_core import Shape, VitaError, height_width, prepared_size

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
"""The normalisation of DINOv2's published checkpoints. Their image processor's own default is CLIP's."""

TILING = ("Aria", "BridgeTower", "Cohere2Vision", "GotOcr2", "Granite4", "Llama4", "LlavaNext", "LlavaOnevision", "Mllama",
          "Molmo2", "Ovis2", "PerceptionLM", "Phi4Multimodal", "VideoLlava")  # fmt: skip
"""How the names of image processors start that give no plain batch of pictures of one size."""


def stated_size(
    part: PreTrainedConfig, asked: tuple[int, int] | None, preprocessor: Mapping[str, Any] | None
) -> tuple[tuple[int, int], str | None]:
    """Return (height, width): as asked, else of the pictures that the checkpoint's processor makes, else of the model's config.

    The second value says which, as `Shape.size_from`. Raises VitaError if none states a size.
    """
    made, key = prepared_size(preprocessor)
    # SAM 2's is that of its backbone, and V-JEPA 2's is called crop_size
    configs = [part, *(getattr(part, name, None) for name in part.sub_configs)]
    stated = (height_width(getattr(one, name, None)) for one in configs for name in ("image_size", "crop_size"))
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


def known_processor(model_type: str, *, videos: bool) -> Any:
    """Return what transformers has as the image or video processor of a model type, or of a whole model with its vision part."""
    package = model_type_to_module_name(model_type)
    for known in (IMAGE_PROCESSOR_MAPPING_NAMES, VIDEO_PROCESSOR_MAPPING_NAMES):
        whole = (name for name in known if videos and model_type_to_module_name(name) == package)
        if found := known.get(model_type) or known.get(next(whole, "")):
            return found
    return {}


def processor(config: Mapping[str, Any], shape: Shape, preprocessor: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the checkpoint's preprocessor config, or the settings of the model's image processor in transformers.

    They are for pictures or videos of the encoder's size.
    """
    if preprocessor is not None:
        return one_picture(preprocessor, shape)
    model_type = config["model_type"]
    known = known_processor(model_type, videos=shape.frames is not None)
    # DINOv2 with registers and DINOv3's ConvNeXt have none of their own
    usual = "DINOv3ViTImageProcessor" if model_type.startswith("dinov3") else "BitImageProcessor"
    # in older versions, the entry of a processor of videos is its name
    kind = known if isinstance(known, str) else known.get("torchvision", usual)
    if shape.frames is not None and kind == "CLIPImageProcessor":  # X-CLIP's, which makes no batch of videos
        kind = "VideoMAEImageProcessor"
    made: dict[str, Any] = dict(getattr(transformers, f"{kind}Pil", getattr(transformers, kind))().to_dict())
    if (plain := one_picture(made, shape)) is not made:
        return {**plain, "resample": int(made["resample"])}
    if not made.get("size"):  # GLPN's and Swin2SR's keep the size of the picture
        made |= {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {}, "resample": 3}
        made["do_normalize"] = bool(made.get("do_normalize"))
    elif "shortest_edge" in made["size"] and not made.get("do_center_crop") and "crop_pct" not in made:
        made |= {"image_processor_type": "ViTImageProcessor", "size": {}}  # TextNet's and YOLOS's keep its aspect
    height, width = shape.image_size
    square = {"height": height, "width": width}
    larger = made["size"].get("shortest_edge", 1) / made["crop_size"]["height"] if made.get("do_center_crop") else 1
    edge = {"shortest_edge": round(min(height, width) * larger)}
    longest = {"longest_edge": max(height, width)}  # SAM's is padded to a square
    made["size"] = edge if "shortest_edge" in made["size"] else longest if "longest_edge" in made["size"] else square
    if "pad_size" in made:
        made["pad_size"] = square
    if made.get("do_center_crop"):
        made["crop_size"] = square
    made["resample"] = int(made["resample"])
    return {**made, **IMAGENET} if model_type.startswith("dino") else made
