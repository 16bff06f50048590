"""Tower `transformers`: the size of pictures, threads, and what it refuses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from conftest import close
from families import CONFIGS, VISION, settings, whole
from transformers.core_model_loading import MergeModulelist, WeightConverter

from vita_core import VitaError, build_tower, make_plan
from vita_plugins.transformers import keys
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.finding import model_class, vision_part
from vita_plugins.transformers.tracing import trace


def test_the_size_is_that_of_the_checkpoints_processor(tmp_path: Path) -> None:
    model = whole("dinov2", tmp_path)
    crop = {"height": 28, "width": 28}
    transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(tmp_path)
    plan = make_plan({"tower": {"weights": str(tmp_path)}})
    assert (plan.grid, plan.stages[0].shape[2:]) == ((2, 2), (28, 28))
    assert plan.rule == "model_type 'dinov2' in its config.json, by the fallback of tower 'transformers'"
    tower = build_tower({"weights": str(tmp_path), "norm": True})
    assert tower.image_processor.size == {"shortest_edge": 32}
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        close(tower(pixels), model(pixels).last_hidden_state[:, 1:])
    asked = build_tower({"weights": str(tmp_path), "image_size": 56, "norm": True})
    assert (asked.grid, asked.image_processor.size) == ((4, 4), {"shortest_edge": 64})


def test_without_any_size_it_is_asked_for(tmp_path: Path) -> None:
    whole("resnet", tmp_path)
    with pytest.raises(VitaError, match=r"tower.image_size: missing, .*Try: `tower.image_size: 224`"):
        build_tower({"weights": str(tmp_path)})


def test_threads_that_share_a_tower_get_their_own_features(tmp_path: Path) -> None:
    whole("dinov2", tmp_path)
    tower = build_tower(settings(tmp_path, select_layer=[1, 3]))
    pictures = torch.randn(16, 1, 3, 56, 56)
    with torch.inference_mode():
        expected = [tower(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(torch.inference_mode()(tower), pictures))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_compile_is_refused(tmp_path: Path) -> None:
    whole("vit", tmp_path)
    with pytest.raises(VitaError, match=r"tower.compile: tower 'transformers' does not support it yet"):
        build_tower(settings(tmp_path, compile=True))


REFUSED = {
    "bert": r"model_type 'bert' has no vision encoder: it takes no pixels\. Try: ",
    "detr": r"model_type 'detr' is not opened: it is a whole detection model, around an encoder of its own\. Try: ",
    "table-transformer": r"model_type 'table-transformer' is not opened: it is a whole detection model.*\. Try: ",
    "chameleon": r"model_type 'chameleon' has no vision encoder: it turns pictures into codes of a table\. Try: ",
    "gemma4_unified": r"has no vision encoder: its language model takes the pixels of the patches\. Try: ",
    "inkling2": r"\(inkling2_vision\) is not opened: its image processor neither resizes pictures nor .*\. Try: ",
    "emu3": r"model_type 'emu3' has no vision encoder: it turns pictures into codes of a table\. Try: ",
    "fuyu": r"model_type 'fuyu' has no vision encoder: its language model takes the pixels of the patches\. Try: ",
    "pix2struct": r"\(pix2struct_vision_model\) is not opened: it takes rows of patches with their places, .*\. Try: ",
    "step3p7": r"\(step3p5_vision\) is not opened: its queries and keys are saved in another order, .*\. Try: ",
    "vilt": r"model_type 'vilt' has no vision encoder: pictures and texts share one encoder\. Try: ",
    "gemma4": r"model_type 'gemma4' has no vision encoder: it takes no pixels\. Try: ",
}


@pytest.mark.parametrize("model_type", [name for name in REFUSED if name in CONFIGS])
def test_what_cannot_be_opened_is_said(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(VitaError, match=REFUSED[model_type]):
        make_plan({"tower": {"weights": str(tmp_path)}})


def test_a_model_type_that_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vitamin"}))
    with pytest.raises(
        VitaError, match=r"no registered tower opens .* with model_type 'vitamin' in its config.json\. Try:"
    ):
        make_plan({"tower": {"weights": str(tmp_path)}})
    with pytest.raises(
        VitaError, match=rf"transformers {transformers.__version__} has no model_type 'vitamin'\. Try: "
    ):
        make_plan({"tower": settings(tmp_path)})


def test_a_conversion_of_weights_that_is_not_known_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole("dinov2", tmp_path)
    stacked = WeightConverter("a.*.weight", "b", [MergeModulelist(dim=0)])
    monkeypatch.setattr(keys, "get_model_conversion_mapping", lambda model: [stacked])
    with pytest.raises(
        VitaError, match=r"Dinov2Model: a conversion of its weights is not supported yet: \[MergeModulelist"
    ):
        build_tower(settings(tmp_path))


def test_the_vision_part_comes_from_the_parents_class() -> None:
    """Old configs leave the nested model_type out, or repeat the parent's."""
    for nested in ({}, {"model_type": "chinese_clip"}):
        config = CONFIGS["chinese_clip"].from_dict({"vision_config": {**VISION, **nested}})
        part = vision_part(config)
        assert type(part).__name__ == "ChineseCLIPVisionConfig"
        assert model_class(part) is transformers.ChineseCLIPVisionModel


@pytest.mark.parametrize(
    ("layer", "message"), [(3, None), (1, r"fits only layer 3, the last, not \[1\]\. Try: `tower.sel")]
)
def test_the_final_norm_of_stages_fits_the_last_alone(tmp_path: Path, layer: int, message: str | None) -> None:
    model = whole("swin", tmp_path)
    if message is not None:
        with pytest.raises(VitaError, match=message):
            build_tower(settings(tmp_path, select_layer=layer, norm=True))
        return
    pixels = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        close(build_tower(settings(tmp_path, norm=True))(pixels), model(pixels).last_hidden_state)


def test_a_model_without_blocks_or_a_grid_is_an_error_and_no_guess() -> None:
    class Pooled(torch.nn.Module):
        config = transformers.ViTConfig(patch_size=8)

        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3)] * blocks)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            tokens = pixel_values.flatten(2).transpose(1, 2)[:, :5]
            for block in self.blocks:
                tokens = block(tokens)
            return tokens

    pixels = torch.zeros(1, 3, 32, 32)
    with pytest.raises(VitaError, match=r"Pooled of transformers has no list of blocks that runs\. Try: "):
        trace(Pooled(0), Family(), {"pixel_values": pixels}, pixels)
    with pytest.raises(
        VitaError, match=r"Pooled of .*features of shape \(1, 5, 3\) do not fit a grid of 4 x 4\. Try: "
    ):
        trace(Pooled(1), Family(), {"pixel_values": pixels}, pixels)
