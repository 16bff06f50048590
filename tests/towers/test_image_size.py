"""``tower.image_size``: pictures of another size than the checkpoint's, against each library's own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import whole_towers
from conftest import close
from families import whole
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    InternVLVisionConfig,
    InternVLVisionModel,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from vita_core import VitaError, build_tower, make_plan, register
from vita_core.plugins.registry import use_plugins

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14}
LARGE = [70, 98]
"""Height and width in pixels: 5 x 7 patches, where the checkpoints have 4 x 4."""


def interpolated(model: PreTrainedModel, pixels: torch.Tensor, layer: int, **how: Any) -> torch.Tensor:
    """The library's hidden state of a layer, without CLS if the model has one."""
    with torch.no_grad():
        tokens = model(pixels, output_hidden_states=True, **how).hidden_states[layer]
    return tokens[:, tokens.shape[1] - 35 :]


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=56)), {"interpolate_pos_encoding": True}),
        (SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=56)), {"interpolate_pos_encoding": True}),
        (ViTModel(ViTConfig(**SIZES, image_size=56)), {"interpolate_pos_encoding": True}),
        (InternVLVisionModel(InternVLVisionConfig(**SIZES, image_size=[56, 56])), {}),
    ],
    ids=lambda value: value.config.model_type if isinstance(value, PreTrainedModel) else "",
)
def test_towers_of_transformers_interpolate_as_the_library_does(
    tmp_path: Path, model: PreTrainedModel, how: dict[str, Any]
) -> None:
    for name, parameter in model.named_parameters():
        if "position" in name:
            torch.nn.init.normal_(parameter)
    model.eval().save_pretrained(tmp_path)
    config = {"weights": str(tmp_path), "image_size": LARGE, "select_layer": 1, "pixel_shuffle": False}
    tower = build_tower(config)
    pixels = torch.randn(2, 3, *LARGE)
    close(tower(pixels), interpolated(model, pixels, 1, **how))
    assert tower.grid == make_plan({"tower": config}).grid == (5, 7)
    own = model.state_dict()
    assert all(
        tensor.shape == own[name].shape for name, tensor in tower.encoder.state_dict().items() if "position" in name
    )


def test_rotary_positions_take_any_size(tmp_path: Path) -> None:
    model = whole("dinov3_vit", tmp_path)
    patch = model.config.patch_size
    side = 6 * patch
    tower = build_tower({"weights": str(tmp_path), "type": "transformers", "image_size": side, "select_layer": 1})
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[1][:, tower.shape.prefix_tokens :]
    close(tower(pixels), expected)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_timm_resamples_as_at_its_own_loading(tmp_path: Path, name: str) -> None:
    """timm builds the model with another img_size, and resamples the table when it loads the checkpoint."""
    small = timm.create_model(name, img_size=56 if "14" in name else 64, depth=2, dynamic_img_size=False)
    torch.nn.init.normal_(small.pos_embed)
    timm.models.save_for_hf(small, str(tmp_path), model_args={"img_size": small.patch_embed.img_size[0], "depth": 2})
    side = 84 if "14" in name else 96
    large = timm.create_model(name, img_size=side, depth=2).eval()
    state = small.state_dict()
    rows, cols = large.patch_embed.grid_size
    table = resample_abs_pos_embed(state["pos_embed"], (rows, cols), num_prefix_tokens=1)
    large.load_state_dict({**state, "pos_embed": table})
    tower = build_tower({"weights": str(tmp_path), "image_size": side, "select_layer": 1})
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        (maps,) = large.forward_intermediates(pixels, indices=[0], intermediates_only=True)
    close(tower(pixels), maps.flatten(2).transpose(1, 2))
    assert tower.encoder.pos_embed.shape == state["pos_embed"].shape


def test_torchvision_runs_another_size(tmp_path: Path) -> None:
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"type": "torchvision", "weights": str(tmp_path), "options": {"architecture": "mobilenet_v2"}}
    tower = build_tower({**config, "image_size": [64, 96]})
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        close(tower(pixels), model.features(pixels).flatten(2).transpose(1, 2))
    assert tower.grid == make_plan({"tower": {**config, "image_size": [64, 96]}}).grid == (2, 3)
    assert tower.image_processor.crop_size == {"height": 64, "width": 96}
    assert tower.image_processor.size["shortest_edge"] == 73


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=56)).save_pretrained(folder)
    return folder


def test_the_processor_and_s2_follow(clip: Path) -> None:
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 56, "width": 56},
    }
    (clip / "preprocessor_config.json").write_text(json.dumps(processor))
    tower = build_tower({"weights": str(clip), "image_size": 112, "delay_load": True})
    assert tower.image_processor.crop_size == {"height": 112, "width": 112}
    assert tower.image_processor.size["shortest_edge"] == 128
    scaled = build_tower({"weights": str(clip), "image_size": 112, "s2": {"scales": [112, 224]}})
    assert scaled(torch.randn(1, 3, 224, 224)).shape == (1, 64, 64)
    assert scaled.resolved.origins["image_size"] == "set in the config"


def test_a_saved_model_keeps_the_table_and_the_key(clip: Path, tiny_llm: Path, tmp_path: Path) -> None:
    from vita_core import build_model

    config = {"tower": {"weights": str(clip), "image_size": 84}, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    model = build_model(config)
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved")
    assert again.tower.shape.image_size == (84, 84)
    table = "embeddings.position_embedding.weight"
    assert again.tower.encoder.state_dict()[table].shape == (17, 32)
    pixels = torch.randn(1, 3, 84, 84)
    assert torch.equal(again.tower(pixels), model.tower(pixels))


def test_a_measured_tower_takes_another_size_if_it_interpolates(tmp_path: Path) -> None:
    register(whole_towers.spec("Resnet"))
    register(whole_towers.spec("Whole"))
    try:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "Resnet", "image_size": 64}))
        save_file(whole_towers.resnet().state_dict(), tmp_path / "model.safetensors")
        assert build_tower({"weights": str(tmp_path), "image_size": 96}).grid == (3, 3)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "Whole", **whole_towers.SIZES}))
        with pytest.raises(
            VitaError, match=r"tower\.image_size: tower 'Whole' takes no other size than its checkpoint's"
        ):
            make_plan({"tower": {"weights": str(tmp_path), "image_size": 64}})
    finally:
        use_plugins()


def test_sizes_that_are_refused(clip: Path, tmp_path: Path) -> None:
    parts = r"100 is no whole number of patches of 14 x 14 pixels\. Try: `tower\.image_size: 98` or `tower\.image_size: 112`"
    with pytest.raises(VitaError, match=parts):
        make_plan({"tower": {"weights": str(clip), "image_size": 100}})
    with pytest.raises(
        VitaError, match=r"\[56, 60\] is no whole number .* Try: `tower.image_size: 56` or `tower.image_size: 70`"
    ):
        make_plan({"tower": {"weights": str(clip), "image_size": [56, 60]}})
    whole("aimv2_vision_model", tmp_path / "fixed")
    with pytest.raises(VitaError, match=r"of model_type 'aimv2_vision_model' in transformers does not interpolate"):
        make_plan({"tower": {"weights": str(tmp_path / "fixed"), "image_size": 84}})
    fixed = {"architecture": "cait_xxs24_224", "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(fixed))
    with pytest.raises(
        VitaError, match=r"timm's Cait does not interpolate its positions\. Try: `tower.image_size: null`"
    ):
        make_plan({"tower": {"weights": str(tmp_path), "image_size": 448}})


def test_a_processor_of_squares_makes_no_other_size(tmp_path: Path) -> None:
    """ConvNeXt's crops a square, so that the pixels would not have the planned size."""
    whole("convnext", tmp_path)
    tower = {"type": "transformers", "weights": str(tmp_path)}
    assert make_plan({"tower": tower | {"image_size": 64}}).pixels == (64, 64)
    with pytest.raises(VitaError, match=r"^tower\.image_size: .* makes squares only, not \[128, 64\]\. Try: .*: 64`$"):
        make_plan({"tower": tower | {"image_size": [128, 64]}})
