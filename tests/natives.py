"""Small encoders of native resolution, saved by their libraries, and pictures of several aspects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image

SIZES = [(96, 96), (200, 40), (50, 150), (33, 257)]
"""(width, height): a square, a wide, a tall, and a narrow picture."""


def picture(width: int, height: int) -> Image.Image:
    """A picture of smooth colours with some noise, the same in every call."""
    rng = np.random.default_rng(width * 1000 + height)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


def saved_timm(folder: Path, **changes: Any) -> Any:
    """A NaFlex ViT of timm with CLS and register tokens, for 24 patches of 16 pixels, saved as timm saves it."""
    torch.manual_seed(0)
    sizes = {"depth": 3, "embed_dim": 32, "num_heads": 2, "pos_embed_grid_size": (4, 4), "img_size": 80}
    arguments = {**sizes, "class_token": True, "reg_tokens": 2, "fc_norm": False, **changes}
    model = timm.create_model("naflexvit_base_patch16_gap", **arguments).eval()
    timm.models.save_for_hf(model, folder, model_args=arguments)
    return model


def saved_transformers(model_type: str, folder: Path) -> Any:
    """A vision model of transformers with patches of 8 pixels, saved with its image processor as the library does."""
    torch.manual_seed(0)
    if model_type == "pixtral":
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 16,
        }
        config: Any = transformers.PixtralVisionConfig(**sizes, image_size=96, patch_size=8)
        model, processor = transformers.PixtralVisionModel(config), transformers.PixtralImageProcessor
        settings: dict[str, Any] = {"patch_size": 8, "size": {"longest_edge": 90}}
    else:
        library = transformers.models.qwen2_5_vl
        sizes = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 24}
        config = library.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(**sizes, patch_size=8, window_size=32)
        model = library.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel(config)
        processor = transformers.Qwen2VLImageProcessor
        settings = {"patch_size": 8, "size": {"shortest_edge": 1024, "longest_edge": 8192}}
    model.eval().save_pretrained(folder)
    processor(**settings).save_pretrained(folder)
    return model
