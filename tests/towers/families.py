"""Small models of pictures and texts, for the tests of tower `transformers`, and the helpers of the table of encoders."""

from __future__ import annotations

import sys
from typing import Any

from conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "docs"))  # the page of encoders is made of the same small models

from transformers_models import (  # noqa: F401  # found in docs/, and imported from here
    CLASSIFIERS,
    CONFIGS,
    MODELS,
    ROWS,
    classifier,
    library_states,
    patches_of,
    saved,
    settings,
    small,
    whole,
)

VISION: dict[str, Any] = MODELS["vit"]["config"]
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "sep_token_id": 1,
}
TWO_TOWERS: dict[str, dict[str, Any]] = {
    name: {"vision_config": VISION, "text_config": TEXT}
    for name in ("aimv2", "blip", "chinese_clip", "clip", "metaclip_2", "siglip")
}
TWO_TOWERS["altclip"] = {"vision_config": VISION, "text_config": {**TEXT, "project_dim": 8}}
"""Models of pictures and texts, by model type."""

VIDEOS: dict[str, dict[str, Any]] = {
    "timesformer": {**VISION, "num_frames": 3},
    "videomae": {**VISION, "num_frames": 4, "decoder_num_hidden_layers": 1},
    "vivit": {**VISION, "num_frames": 4, "tubelet_size": [2, 14, 14]},
    "vjepa2": {
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_ratio": 2.0,
        "crop_size": 56,
        "patch_size": 14,
        "frames_per_clip": 4,
        "pred_hidden_size": 24,
        "pred_num_hidden_layers": 1,
        "pred_num_attention_heads": 2,
        "num_pooler_layers": 1,
    },
}
"""Encoders of videos, by model type."""
