"""open_clip's preprocessing, in the form of a ``preprocessor_config.json``. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core import Shape

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = 2, 3
"""The numbers of PIL's filters."""


def processor(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the preprocessing that the ``preprocess_cfg`` of an ``open_clip_config.json`` describes.

    It is that of ``open_clip.image_transform`` in inference. Without a ``preprocess_cfg``, it is open_clip's default.
    """
    given = {key: value for key, value in config.get("preprocess_cfg", {}).items() if value is not None}
    height, width = shape.image_size
    frame = {"height": height, "width": width}
    mean, std = given.get("mean") or OPENAI_MEAN, given.get("std") or OPENAI_STD
    mode = given.get("resize_mode") or "shortest"
    made = {
        "image_processor_type": "CLIPImageProcessor",
        "size": frame,
        "resample": BILINEAR if given.get("interpolation") == "bilinear" else BICUBIC,
        "image_mean": list(mean) if isinstance(mean, list | tuple) else [mean] * 3,
        "image_std": list(std) if isinstance(std, list | tuple) else [std] * 3,
        "crop_size": frame,
        "crop_offset": "round",  # torchvision rounds the corner of the crop
    }
    if mode == "longest":
        fill = given.get("fill_color", 0)
        color = list(fill) if isinstance(fill, list | tuple) else [fill] * 3
        return made | {"keep_aspect": "inside", "fill_color": color}
    if mode == "squash":
        return made
    if height == width:
        return made | {"size": {"shortest_edge": height}}
    return made | {"keep_aspect": "around", "resample": BICUBIC}  # open_clip ignores the interpolation here
