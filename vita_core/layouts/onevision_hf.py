"""LLaVA-OneVision as transformers saves it (`LlavaOnevisionForConditionalGeneration`)."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.hf import check_projector, single_pictures, text_config, vision_source
from vita_core.layouts.layout import Layout, OldConfig, dtype_of
from vita_core.layouts.llava_hf import RULES, anyres_grids, tower_section
from vita_core.weights.sources import Source

__all__ = ["LAYOUT"]

# the values of transformers' classes for missing keys
SIDES = (384, 768, 1152, 1536, 1920, 2304)
PINPOINTS = [list(pinpoint) for pinpoint in product(SIDES, SIDES)]
IMAGE_TOKEN = 151646
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as transformers' class computes. Raises CheckpointError for an unsupported projector."""
    check_projector(config)
    aspect = str(config.get("vision_aspect_ratio", "anyres_max_9"))
    most = re.fullmatch(r"anyres_max_([1-9]\d*)", aspect)
    if most is None:
        raise CheckpointError(
            f"vision_aspect_ratio: unknown value: {aspect!r}. Try: anyres_max_N, such as anyres_max_9"
        )
    grids = anyres_grids(config, tile, PINPOINTS)
    return {
        "tower": tower_section(config, "full", -1),
        "projector": {"type": "mlp2x_gelu"},
        "llm": {"dtype": dtype_of(config)},
        "images": {"anyres": {"grids": grids, "merge": "spatial_unpad", "shrink_to": int(most[1]), "several": "pad"}},
        "prompt": {"template": "chat", "image_token": config.get("image_token_index", IMAGE_TOKEN)},
    }


def processor(own: Source) -> dict[str, Any] | None:
    """Return the processor config for a tile: SigLIP's, with the values of LLaVA-OneVision's for missing keys."""
    made = single_pictures(own, "LlavaOnevision", "SiglipImageProcessor")
    return made if made is None else {**CLIP, **{key: value for key, value in made.items() if value is not None}}


LAYOUT = Layout(
    name="LLaVA-OneVision",
    model_types=("llava_onevision",),
    recognises=lambda config: config.get("model_type") == "llava_onevision" and "vision_config" in config,
    rules=RULES,
    decoder=lambda config: text_config(config, "qwen2", inherits=True),
    sections=sections,
    tower_name=lambda config: None,
    tower_source=lambda own: vision_source(own, processor(own)),
)
