"""Tiny LLaVA checkpoints: transformers' own classes with random weights, saved as they save them and as LLaVA's authors do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    MistralConfig,
)

SIDE = 28
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
IMAGE_TOKEN = 27
SIZES = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
TEXT = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 0}
TO_ORIGINAL = (
    (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.language_model\.", "model."),
)


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=7,
        projection_dim=16,
    )


def converted(folder: Path, tokenizer: Path, *, next_: bool, text: Any = None) -> Any:
    """transformers' model, saved in `folder` with an image processor and the tokenizer of `tokenizer`; `text`: its config."""
    torch.manual_seed(0)
    text = text or (MistralConfig(**TEXT) if next_ else LlamaConfig(**TEXT))
    common: dict[str, Any] = {
        "image_token_index": IMAGE_TOKEN,
        "vision_feature_layer": -2,
        "tie_word_embeddings": False,
    }
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    if next_:
        config = LlavaNextConfig(
            vision_config=vision_config(), text_config=text, image_grid_pinpoints=PINPOINTS, **common
        )
        model: Any = LlavaNextForConditionalGeneration(config)
        torch.nn.init.normal_(model.model.image_newline)
        LlavaNextImageProcessorPil(image_grid_pinpoints=PINPOINTS, **size).save_pretrained(folder)
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision_config(), text_config=text, **common))
        CLIPImageProcessorPil(**size).save_pretrained(folder)
    model.eval().save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)
    return model


def copy_tokenizer(source: Path, folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / file, folder / file)


def original(folder: Path, model: Any, tokenizer: Path, *, tower_inside: bool = True, adapter: bool = False) -> Path:
    """`model` in LLaVA's own layout: `folder`/llava beside `folder`/clip, the projector in mm_projector.bin if `adapter`."""
    tower, own = folder / "clip", folder / "llava"
    model.model.vision_tower.save_pretrained(tower)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        tower
    )
    own.mkdir()
    copy_tokenizer(tokenizer, own)
    state = {}
    for key, tensor in model.state_dict().items():
        for pattern, name in TO_ORIGINAL:
            key = re.sub(pattern, name, key)  # noqa: PLW2901  # renamed step by step
        state[key] = tensor.contiguous()
    projector = {key: state.pop(key) for key in list(state) if "mm_projector" in key} if adapter else {}
    if adapter:
        torch.save(projector, own / "mm_projector.bin")
    if not tower_inside:
        state = {key: tensor for key, tensor in state.items() if "vision_tower" not in key}
    save_file(state, own / "model.safetensors", metadata={"format": "pt"})
    text = model.config.text_config
    anyres = isinstance(model, LlavaNextForConditionalGeneration)
    config = {
        **text.to_dict(),
        "model_type": f"llava_{text.model_type}",
        "mm_vision_tower": "../clip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 16,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "anyres" if anyres else "pad",
    }
    if anyres:  # LLaVA writes (width, height)
        config |= {"image_grid_pinpoints": [pair[::-1] for pair in PINPOINTS], "mm_patch_merge_type": "spatial_unpad"}
    (own / "config.json").write_text(json.dumps(config))
    return own


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
