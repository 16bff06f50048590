"""The sizes of pictures for models of native resolution, against the library's own image processors."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import settings
from native_models import KNOWN, PROCESSORS, small_config, small_model, small_processor, without
from PIL import Image

from vita_core import VitaError, build_tower, make_plan
from vita_core.pixels.processors import image_processor
from vita_core.planning.native import at_size
from vita_core.planning.resolution import resolve
from vita_core.planning.towers import resolve_tower
from vita_plugins.transformers import opening
from vita_plugins.transformers.native import check_native

NARROW = [(8, 150), (150, 9), (7, 70), (8, 9), (17, 16), (31, 33)]


def sizes(seed: int, count: int) -> list[tuple[int, int]]:
    """Heights and widths of pictures, with narrow and tiny ones."""
    chosen = random.Random(seed)
    return NARROW + [(chosen.randint(10, 400), chosen.randint(10, 400)) for _ in range(count)]


def grid_of(made: Any) -> tuple[int, int]:
    """The grid (rows, cols) of the only picture in the output of a processor."""
    if "spatial_shapes" in made:
        return tuple(made["spatial_shapes"][0].tolist())
    if "image_grid_thw" in made:
        return tuple(made["image_grid_thw"][0].tolist()[1:])
    if "image_position_ids" in made:
        return tuple(int(end) + 1 for end in made["image_position_ids"][0].amax(0).flip(0))
    if "target_sizes" in made:
        return tuple(made["target_sizes"][0].tolist())
    if "image_sizes" in made:
        return tuple(side // 8 for side in made["image_sizes"][0].tolist())
    if "rows" in made:
        return max(1, made["rows"][0][0]) * 4, max(1, made["cols"][0][0]) * 4
    return tuple(side // 8 for side in made["pixel_values"].shape[-2:])


KINDS = {PROCESSORS.get(name, ("Qwen2VLImageProcessor",))[0]: name for name in KNOWN}


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_is_that_of_the_librarys_processor(tmp_path: Path, kind: str) -> None:
    model_type = KINDS[kind]
    processor = small_processor(model_type, tmp_path)
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config = small_config(model_type)
    native = opening.shape(json.loads(config.to_json_string()), {}, preprocessor).native
    more = {"return_row_col_info": True} if "max_image_size" in preprocessor else {}
    nested = (
        "pixel_attention_mask" in processor.model_input_names and "spatial_shapes" not in processor.model_input_names
    )
    for height, width in sizes(0, 60):
        if model_type == "glm_image_vision" and (min(height, width) < 8 or max(height, width) > 4 * min(height, width)):
            continue
        picture = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        made = processor(images=[[picture]] if nested else [picture], return_tensors="pt", **more)
        assert native.grid(*native.size(height, width)) == grid_of(made), (height, width)


def test_the_sizes_for_one_picture(tmp_path: Path) -> None:
    _, processor = small_model("qwen2_5_vl_vision", tmp_path)
    for height, width in ((90, 130), (768, 1024)):
        tower = resolve_tower(settings(tmp_path))
        made = processor(images=[Image.new("RGB", (width, height))], return_tensors="pt")
        assert at_size(tower, tower.shape.native.size(height, width)).geometry.grid == grid_of(made)


BUDGETS = {
    "idefics3_vision": {"max_tokens": 100},
    "pixtral": {"max_tokens": 50},
    "glm4v_vision": {"min_tokens": 20, "max_tokens": 90},
}


@pytest.mark.parametrize("model_type", BUDGETS)
def test_a_budget_of_tokens(tmp_path: Path, model_type: str) -> None:
    small_processor(model_type, tmp_path)
    (tmp_path / "config.json").write_text(small_config(model_type).to_json_string())
    budget = BUDGETS[model_type]
    native = resolve({"tower": settings(tmp_path), "images": budget}).tower.shape.native
    for height, width in ((60, 200), (200, 60), (100, 110), (300, 300), (25, 30)):
        rows, cols = native.grid(*native.size(height, width))
        assert budget.get("min_tokens", 0) <= rows * cols <= budget["max_tokens"]
    with pytest.raises(VitaError, match=r"images\.(min|max)_tokens: .*Try: "):
        resolve(
            {
                "tower": settings(tmp_path),
                "images": {"min_tokens": 3} if "min_tokens" not in budget else {"max_tokens": 1},
            }
        )


def test_a_picture_that_is_too_narrow(tmp_path: Path) -> None:
    for model_type in ("glm4v_vision", "idefics3_vision", "pixtral", "qwen2_vl_vision"):
        small_model(model_type, tmp_path)
        tower = build_tower(settings(tmp_path, delay_load=True))
        with pytest.raises(VitaError, match=r"a picture of 20000 x 2 pixels has an aspect ratio above 200:1, .*Try: "):
            tower.image_processor.preprocess([Image.new("RGB", (20000, 2))])


def test_a_picture_that_glm_image_does_not_take(tmp_path: Path) -> None:
    small_model("glm_image_vision", tmp_path)
    tower = build_tower(settings(tmp_path, delay_load=True))
    for size in ((7, 9), (41, 10)):
        with pytest.raises(
            VitaError, match=rf"a picture of {size[0]} x {size[1]} pixels is too small or too narrow for"
        ):
            tower.image_processor.preprocess([Image.new("RGB", size)])


@without("granite_docling_vision")
def test_a_second_budget_for_dense_pages_is_refused(tmp_path: Path) -> None:
    small_model("granite_docling_vision", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "dense_max_patches": 9}))
    with pytest.raises(
        VitaError, match=r"dense_max_patches: 9: a second budget .*\. Try: set dense_max_patches to 0 in"
    ):
        make_plan({"tower": settings(tmp_path)})


@pytest.mark.parametrize(("key", "value"), [("slice_mode", True), ("small_image_upsize", "adaptive")])
@without("minicpm_ocr_vision")
def test_the_slices_of_minicpm_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    small_model("minicpm_ocr_vision", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(
        VitaError, match=rf"preprocessor config: {key}: {value!r} is not supported .*\. Try: set {key} to"
    ):
        make_plan({"tower": settings(tmp_path)})


def test_parts_of_blocks_are_refused(tmp_path: Path) -> None:
    small_model("qwen2_vl_vision", tmp_path)
    with pytest.raises(VitaError, match=r"a picture of 40 x 32 pixels is not made of whole blocks of 16 x 16\. Try: "):
        build_tower(settings(tmp_path))([torch.zeros(3, 32, 40)])


@pytest.mark.parametrize(
    ("model_type", "key"), [("qwen3_vl_vision", "patch_size"), ("idefics3_vision", "max_image_size")]
)
def test_a_processor_that_does_not_fit_the_encoder(tmp_path: Path, model_type: str, key: str) -> None:
    small_model(model_type, tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: {"longest_edge": 14} if key[0] == "m" else 14}))
    with pytest.raises(
        VitaError, match=rf"preprocessor config: {key}: .*14.* does not fit the encoder's (8|32)\. Try: "
    ):
        make_plan({"tower": settings(tmp_path)})


@pytest.mark.parametrize("model_type", KNOWN)
def test_without_a_preprocessor_config_it_is_the_librarys_own(tmp_path: Path, model_type: str) -> None:
    """The default settings of the library's class, for the patches of the encoder."""
    config = json.loads(small_config(model_type).to_json_string())
    shape = opening.shape(config, {}, None)
    made = opening.processor(config, shape, None)
    kind = getattr(transformers, made["image_processor_type"])
    usual = kind().to_dict()
    assert made["image_processor_type"] == PROCESSORS.get(model_type, ("Qwen2VLImageProcessor",))[0]
    changed = {key for key in usual if made[key] != usual[key]}
    assert changed <= {"patch_size", "merge_size", "temporal_patch_size", "max_image_size", "size", "slice_mode"}
    assert image_processor(made).to_dict()["image_mean"] == usual["image_mean"]


def test_features_that_differ_from_the_rules_are_an_error(tmp_path: Path) -> None:
    small_model("qwen2_vl_vision", tmp_path)
    tower = build_tower(settings(tmp_path))
    wider = [replace(stage, channels=40) for stage in tower.shape.stages]
    with pytest.raises(
        VitaError, match=r"features of shape \(1, 24, 32\) for a grid of 4 x 6 of 40\. Try: report this"
    ):
        check_native(tower.encoder, tower.family, replace(tower.shape, stages=tuple(wider)), merger=False)


def test_a_processor_without_a_longest_edge(tmp_path: Path) -> None:
    small_processor("pixtral", tmp_path)
    (tmp_path / "config.json").write_text(small_config("pixtral").to_json_string())
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"shortest_edge": 90}}))
    with pytest.raises(VitaError, match=r"preprocessor config: size: no longest_edge: .*90.*\. Try: correct it in"):
        make_plan({"tower": settings(tmp_path)})


def test_another_size_is_a_budget_of_tokens(tmp_path: Path) -> None:
    small_model("qwen2_vl_vision", tmp_path)
    with pytest.raises(VitaError, match=r"tower.image_size: .*Try: "):
        make_plan({"tower": settings(tmp_path, image_size=64)})
