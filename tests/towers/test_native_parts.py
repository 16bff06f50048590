"""The vision parts of multimodal models of native resolution, opened from the directory of the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import TEXT
from conftest import close
from families import CONFIGS, saved, settings
from native_models import library_states, pictures, small_config, small_processor
from safetensors.torch import save_file
from transformers.models.auto import modeling_auto

from vita_core import build_tower

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
PARENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "glm4v": ("glm4v_vision", {"rope_parameters": ROPE}),
    "idefics2": ("idefics2_vision", {}),
    "idefics3": ("idefics3_vision", {}),
    "llava": ("pixtral", {}),
    "mistral3": ("pixtral", {}),
    "qwen2_5_vl": ("qwen2_5_vl_vision", {"rope_parameters": ROPE}),
    "qwen2_vl": ("qwen2_vl_vision", {"rope_parameters": ROPE}),
    "qwen3_vl": ("qwen3_vl_vision", {"rope_parameters": ROPE}),
    "smolvlm": ("smolvlm_vision", {}),
}
"""The model type of the vision part, and what else the text part is given."""


def whole_model(parent: str, folder: Path) -> tuple[Any, Any, Any]:
    """A multimodal model with random weights, saved as the library saves it, its vision part, and its image processor."""
    kind, text = PARENTS[parent]
    vision = small_config(kind).to_dict()
    config = CONFIGS[parent](
        vision_config=vision, text_config={**TEXT, **text, **({"model_type": "llama"} if kind == "pixtral" else {})}
    )
    model = saved(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config), folder)
    part = next(it for it in model.modules() if type(getattr(it, "config", None)).model_type == kind)
    return model, part, small_processor(kind, folder)


@pytest.mark.parametrize("parent", PARENTS)
def test_the_vision_part_of_a_multimodal_model(tmp_path: Path, parent: str) -> None:
    _, part, processor = whole_model(parent, tmp_path)
    tower = build_tower(settings(tmp_path, select_layer=-1))  # a LLaVA states another layer
    made = tower.image_processor.preprocess(pictures())["pixel_values"]
    assert any("embed_tokens" in key for key in tower.load_report.skipped["other parts of the model"])
    if parent == "mistral3":  # its processor of texts and pictures has blocks of 2 x 2 patches
        processor.patch_size = {"height": 16, "width": 16}
        assert tower.shape.native.block == 16
    for found, one in zip(tower(made), library_states(part, processor, pictures()), strict=True):
        close(found, one[4].flatten(0, 1)[None])


OLDER = {
    "qwen2_vl": ("model.visual.", "visual."),
    "qwen2_5_vl": ("model.visual.", "visual."),
    "llava": ("model.vision_tower.", "vision_tower."),
}


@pytest.mark.parametrize("parent", OLDER)
def test_checkpoints_of_older_versions(tmp_path: Path, parent: str) -> None:
    """Their tensors are below another prefix, and their vision config has no model type or that of the whole model."""
    model, _, _ = whole_model(parent, tmp_path)
    now, before = OLDER[parent]
    expected = build_tower(settings(tmp_path)).state_dict()
    file, config = tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {key.replace(now, before): tensor.clone() for key, tensor in model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    for kind in ({}, {"model_type": parent}) if parent != "llava" else ({"model_type": "pixtral"},):
        part = {key: value for key, value in config["vision_config"].items() if key != "model_type"}
        file.write_text(json.dumps({**config, "vision_config": part | kind}))
        found = build_tower(settings(tmp_path)).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
