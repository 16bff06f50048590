"""Tower `internvit` on checkpoints of transformers' own InternVL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import close

from vita_core import VitaError, build_tower, make_plan

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": [56, 56],
    "patch_size": [14, 14],
}
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 10,
}
STYLES: dict[str, dict[str, Any]] = {
    "300M": {"attention_bias": True},
    "6B": {"norm_type": "rms_norm", "use_qk_norm": True},
    "final norm and mask token": {"use_mean_pooling": False, "use_mask_token": True},
}


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """The model with random values in all parameters, also in those that start as zeros or ones."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.2)
    return model.eval()


@pytest.mark.parametrize("style", STYLES)
def test_a_vision_model(tmp_path: Path, style: str) -> None:
    from transformers import InternVLVisionConfig, InternVLVisionModel

    model = randomized(InternVLVisionModel(InternVLVisionConfig(**TINY, **STYLES[style])))
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
    for layer in (0, 2, -1):
        tower = build_tower({"weights": str(tmp_path), "select_layer": layer})
        assert tower.resolved.spec.name == "internvit"
        close(tower(pixels), output.hidden_states[layer][:, 1:])
    assert (tower.settings.feature_scale, tower.settings.pixel_shuffle, tower.settings.select_layer) == (None, None, -1)
    settings = {"type": "internvit", "weights": str(tmp_path)}
    planned = make_plan({"tower": settings})
    assert planned.stages[1].parameters == sum(parameter.numel() for parameter in build_tower(settings).parameters())
    if style == "final norm and mask token":
        close(build_tower({**settings, "norm": True})(pixels), output.last_hidden_state[:, 1:])


def test_the_vision_part_of_a_chat_model(tmp_path: Path) -> None:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    config = InternVLConfig(vision_config=TINY, text_config=TEXT)
    model = randomized(InternVLForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    tower = build_tower({"weights": str(tmp_path)})
    close(tower(pixels), states[-1][:, 1:])
    skipped = tower.load_report.skipped["language model and projector"]
    assert all(key.startswith(("language_model.", "multi_modal_projector.")) for key in skipped)
    assert tower.load_report.loaded == len(model.model.vision_tower.state_dict())
    shuffled = build_tower({"weights": str(tmp_path), "pixel_shuffle": 0.5})
    assert (shuffled.grid, shuffled.hidden_size) == ((2, 2), 128)


def test_patches_that_are_not_square_are_refused(tmp_path: Path) -> None:
    config = {"model_type": "internvl_vision", **TINY, "patch_size": [14, 28]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(VitaError, match=r"config.json: patch_size is not square: \[14, 28\]\. Try: "):
        build_tower({"weights": str(tmp_path)})
