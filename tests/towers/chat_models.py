"""Small multimodal models of transformers, and their vision parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from families import CONFIGS, VISION, saved
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from vita_plugins.transformers.finding import vision_part

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "max_position_embeddings": 64,
}


def _two(vision: str | None, text: str | None, **more: Any) -> dict[str, Any]:
    return {
        "vision_config": {**VISION, "model_type": vision} if vision else VISION,
        "text_config": {**TEXT, "model_type": text} if text else TEXT,
        **more,
    }


CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"

OPT = {
    "model_type": "opt",
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "word_embed_proj_dim": 16,
}
QFORMER = {
    "vision_config": VISION,
    "qformer_config": {**TEXT, "encoder_hidden_size": 32},
    "text_config": OPT,
    "num_query_tokens": 2,
}
GOT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "output_channels": 8,
    "mlp_dim": 16,
    "global_attn_indexes": [1],
    "window_size": 2,
}
TILES = {
    "max_num_tiles": 2,
    "supported_aspect_ratios": [[1, 1], [1, 2]],
    "num_global_layers": 2,
    "intermediate_layers_indices": [0, 1],
    "attention_heads": 4,
    "vision_output_dim": 96,
}
SHUFFLE = {
    "vision_output_dim": 16,
    "projector_input_dim": 16,
    "projector_output_dim": 16,
    "pixel_shuffle_ratio": 0.5,
    "intermediate_size": 128,
}

MODELS: dict[str, dict[str, Any]] = {
    "align": {
        "vision_config": {"image_size": 64, "width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 64},
        "text_config": TEXT,
        "projection_dim": 16,
    },
    "aya_vision": _two(SIGLIP, "cohere2"),
    "blip-2": QFORMER,
    "bridgetower": {
        "vision_config": {"hidden_size": 64, "num_hidden_layers": 3, "image_size": 56, "patch_size": 14},
        "text_config": {**TEXT, "hidden_size": 64},
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
    },
    "clipseg": _two(None, None),
    "cohere2_vision": _two(SIGLIP, "cohere2"),
    "deepseek_vl": _two(SIGLIP, "llama"),
    "flava": {
        "image_config": VISION,
        "text_config": {**TEXT, "hidden_size": 32},
        "multimodal_config": {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        "image_codebook_config": {"hidden_size": 8, "num_blocks_per_group": 1, "vocab_size": 16},
    },
    "gemma3": _two(SIGLIP, "gemma3_text", mm_tokens_per_image=4),
    "git": {"vision_config": VISION, **TEXT},
    "got_ocr2": {"vision_config": GOT, "text_config": {**TEXT, "model_type": "qwen2"}},
    "idefics": {
        **TEXT,
        "additional_vocab_size": 2,
        "num_hidden_layers": 2,
        "cross_layer_interval": 1,
        "use_resampler": False,
        "vision_config": {**VISION, "embed_dim": 32},
    },
    "instructblip": QFORMER,
    "internvl": _two("internvl_vision", "qwen2"),
    "janus": {
        "vision_config": {**{key: VISION[key] for key in VISION if key != "intermediate_size"}, "projection_dim": 16},
        "text_config": {**TEXT, "model_type": "llama"},
        "vq_config": {
            "base_channels": 32,
            "channel_multiplier": [1],
            "embed_dim": 8,
            "num_embeddings": 8,
            "num_res_blocks": 1,
            "projection_dim": 16,
            "image_token_embed_dim": 16,
        },
    },
    "kosmos-2": {
        "vision_config": VISION,
        "text_config": {
            "vocab_size": 50,
            "embed_dim": 16,
            "layers": 1,
            "ffn_dim": 32,
            "attention_heads": 2,
            "max_position_embeddings": 64,
        },
        "latent_query_num": 2,
    },
    "llama4": {
        "vision_config": {**VISION, **SHUFFLE},
        "text_config": {**TEXT, "num_local_experts": 2, "intermediate_size_mlp": 32},
    },
    "llava": _two(CLIP, "llama"),
    "llava_next": _two(CLIP, "llama"),
    "llava_next_video": _two(CLIP, "llama"),
    "llava_onevision": _two(SIGLIP, "qwen2"),
    "mllama": {
        "vision_config": {**VISION, **TILES},
        "text_config": {
            **TEXT,
            "cross_attention_layers": [],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "modernvbert": {
        "vision_config": {**VISION, "model_type": SIGLIP},
        "text_config": {**TEXT, "model_type": "modernbert", "num_hidden_layers": 2},  # older versions need both kinds
    },
    "molmo2": {
        "vision_config": {
            **VISION,
            "image_size": [56, 56],
            "num_position_embeddings": 16,
            "head_dim": 8,
            "num_key_value_heads": 4,
        },
        "text_config": TEXT,
        "adapter_config": {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "intermediate_size": 32,
            "text_hidden_size": 16,
            "vit_layers": [-1],
        },
    },
    "ovis2": {
        "vision_config": {**VISION, "vocab_size": 20, "num_visual_indicator_tokens": 5, "hidden_stride": 2},
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vocab_size": 50,
        "hidden_size": 16,
    },
    "owlv2": _two(None, None),
    "owlvit": _two(None, None),
    "paligemma": _two(SIGLIP, "gemma"),
    "video_llava": _two(CLIP, "llama"),
    "vipllava": _two(CLIP, "llama"),
}
"""Configs by model type."""
MODELS = {name: values for name, values in MODELS.items() if name in CONFIGS}  # older versions have fewer

WRITTEN = {
    "align": "encoder.blocks",
    "blip-2": "encoder.layers",
    "bridgetower": "visual.transformer.resblocks",
    "clipseg": "encoder.layers",
    "flava": "encoder.layer",
    "git": "vision_model.encoder.layers",
    "got_ocr2": "layers",
    "idefics": "encoder.layers",
    "instructblip": "encoder.layers",
    "janus": "encoder.layers",
    "kosmos-2": "model.encoder.layers",
    "llama4": "model.layers",
    "mllama": "transformer.layers",
    "molmo2": "layers",
    "ovis2": "transformer.encoder.layers",
    "owlv2": "encoder.layers",
    "owlvit": "encoder.layers",
}
"""The blocks of the vision parts whose hidden states the library does not give, or not before the final norm."""
CLS = (
    "blip-2",
    "bridgetower",
    "clipseg",
    "flava",
    "git",
    "idefics",
    "instructblip",
    "kosmos-2",
    "mllama",
    "owlv2",
    "owlvit",
)

FLORENCE = {
    "vision_config": {
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "depths": [1, 2],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "window_size": 4,
        "projection_dim": 16,
    },
    "text_config": {
        "model_type": "bart",
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "vocab_size": 50,
    },
}
"""A model whose vision part has stages."""
PERCEPTION = {
    "vision_config": {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {
            "embed_dim": 32,
            "depth": 3,
            "num_heads": 4,
            "img_size": [56, 56],
            "patch_size": 14,
            "global_pool": "",
        },
        "do_pooling": False,
    },
    "text_config": {**TEXT, "model_type": "llama"},
    "vision_use_cls_token": True,
}
"""A model whose vision part is one of timm's."""

IMAGE_SIDE = {"video_llava": "image_tower"}
"""The module of the vision part, where another module has a config of the same class before it."""


def chat_model(model_type: str, folder: Path, **changes: Any) -> tuple[Any, nn.Module]:
    """A model with random weights, saved as the library saves it, and its vision part."""
    config = CONFIGS[model_type](
        **{**MODELS, "florence2": FLORENCE, "perception_lm": PERCEPTION}[model_type], **changes
    )
    mappings = (modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, modeling_auto.MODEL_MAPPING)
    kind = next(mapping[type(config)] for mapping in mappings if type(config) in mapping)
    model = saved(kind(config), folder)
    wanted, side = type(vision_part(config)), IMAGE_SIDE.get(model_type, "")
    return model, next(
        module
        for name, module in model.named_modules()
        if type(getattr(module, "config", None)) is wanted and side in name
    )


def block_states(model_type: str, vision: Any, pixels: Tensor) -> list[Tensor]:
    """The patches (B, N, C) before and after each block, in a run of the library's own whole vision part."""
    blocks = [*vision.get_submodule(WRITTEN[model_type])]
    if model_type == "mllama":
        blocks += vision.global_transformer.layers
    states: list[Tensor] = []

    def first(value: Any) -> Any:
        return value if isinstance(value, Tensor) else value[0]

    hooks = [
        blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: states.append(first([*args, *kwargs.values()])), with_kwargs=True
        ),
        *(block.register_forward_hook(lambda _, args, output: states.append(first(output))) for block in blocks),
    ]
    with torch.no_grad():
        vision(**_arguments(model_type, pixels))
    for hook in hooks:
        hook.remove()
    return [_patches(model_type, state) for state in states]


def _arguments(model_type: str, pixels: Tensor) -> dict[str, Tensor]:
    if model_type == "mllama":  # one tile, padded to two, as its processor does
        tiles = torch.stack([pixels, torch.zeros_like(pixels)], dim=1)[:, None]
        ones = torch.ones(len(pixels), 1, dtype=torch.long)
        return {
            "pixel_values": tiles,
            "aspect_ratio_ids": ones,
            "aspect_ratio_mask": torch.tensor([[[1, 0]]] * len(pixels)),
        }
    if model_type == "molmo2":
        from transformers.models.molmo2.image_processing_molmo2 import batch_pixels_to_patches  # not in older versions

        return {"pixel_values": batch_pixels_to_patches(pixels.permute(0, 2, 3, 1), 14)}
    return {"image" if model_type == "bridgetower" else "pixel_values": pixels}


def _patches(model_type: str, state: Tensor) -> Tensor:
    if model_type == "bridgetower":  # (T, B, C)
        state = state.transpose(0, 1)
    if model_type == "mllama":  # CLS, 16 patches and 7 tokens of padding of each tile
        state = state[:, :17]
    if model_type == "llama4":
        return state[:, :-1]
    if state.ndim == 4:
        return state.flatten(1, 2) if model_type == "got_ocr2" else state.flatten(2).transpose(1, 2)
    return state[:, 1:] if model_type in CLS else state
