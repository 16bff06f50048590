"""`vita plan --picture`: what is planned for a picture of one size is what the tower and the model do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import golden_settings, vita
from natives import SIZES, picture, saved_timm, saved_transformers
from torch.utils.flop_counter import FlopCounterMode

from vita_core import VitaError, build_model, build_tower, make_plan


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("naflex")
    saved_timm(folder)
    return {"weights": str(folder)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("tower", "images"), [({}, {}), ({}, {"max_tokens": 9}), ({}, {"aspect": "pad"}), ({"pixel_shuffle": 0.5}, {})]
)
def test_native_resolution(
    naflex: dict[str, Any],
    tiny_llm: Path,
    tower: dict[str, Any],
    images: dict[str, Any],
    size: tuple[int, int],
) -> None:
    # torch does not count its fused attention on a CPU
    settings = {**naflex, **tower, "attention": "eager"}
    config = {"tower": settings, "images": images, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    plan = make_plan(config, picture=size)
    model = build_model(config)
    pixels = model.prepare(picture(*size)).pixels
    with FlopCounterMode(display=False) as counter:
        tokens = model.tower(pixels)
    assert plan.pixels == pixels.shape[2:]
    assert (plan.grid, plan.tokens) == (model.tower.resolved.grid_of(*plan.pixels), tokens.shape[1])
    assert plan.stages[0].shape == pixels.shape
    assert plan.stages[1].shape == tokens.shape
    assert plan.stages[1].flops == counter.get_total_flops()
    assert plan.stages[3].shape == (model.ask(picture(*size), "what is this ?").visual_tokens, 24)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "images",
    [
        {},
        {"tiles": {"max": 4}},
        {"tiles": {"max": 6, "min": 2, "thumbnail": False}},
        {"anyres": {"grids": [[1, 2], [2, 1], [2, 2]]}},
        {"anyres": {"grids": [[1, 2], [2, 1], [2, 2]], "merge": "spatial"}},
        {"anyres": {"grids": [[1, 2], [2, 1], [1, 4]], "merge": "spatial_unpad"}},
    ],
)
def test_a_fixed_size(tiny_llm: Path, tmp_path: Path, images: dict[str, Any], size: tuple[int, int]) -> None:
    from safetensors.torch import save_file

    if "spatial_unpad" in str(images):
        save_file({"image_newline": torch.zeros(24)}, tmp_path / "newline.safetensors")
        images = {"anyres": {**images["anyres"], "newline": str(tmp_path / "newline.safetensors")}}
    config = {"tower": golden_settings("clip"), "images": images, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    plan = make_plan(config, picture=size)
    model = build_model(config)
    answer = model.ask(picture(*size), "what is this ?", max_new_tokens=1)
    assert (plan.tiles, plan.tokens) == (answer.tiles[0], answer.visual_tokens)
    assert plan.stages[0].shape == model.prepare(picture(*size)).pixels.shape


def test_a_picture_that_is_not_opened(naflex: dict[str, Any]) -> None:
    for tower in (naflex, golden_settings("clip")):
        with pytest.raises(VitaError, match="2 x 20000 pixels is not opened"):
            make_plan({"tower": tower}, picture=(2, 20_000))


def test_the_budget_can_be_the_only_error_at_plan_time(naflex: dict[str, Any]) -> None:
    with pytest.raises(VitaError, match=r"images\.max_tokens: tower 'clip' resizes every picture to 56 x 56 pixels"):
        make_plan({"tower": golden_settings("clip"), "images": {"max_tokens": 10}})
    with pytest.raises(VitaError, match=r"images\.tiles: tower 'timm' keeps the aspect"):
        make_plan({"tower": naflex, "images": {"tiles": {"max": 3}}})


@pytest.mark.slow
def test_the_command(naflex: dict[str, Any]) -> None:
    command = ["plan", "--tower", "timm", "--weights", naflex["weights"]]
    done = vita(*command, "--picture", "200x40")
    assert "One picture of 200 x 40 pixels: layers [3], grid 2 x 10, resized to 160 x 32 pixels." in done.stdout
    assert "20 visual tokens" in done.stdout
    told = (
        "Native resolution: each picture keeps its aspect and has 1 to 25 tokens. `--picture WIDTHxHEIGHT` plans one."
    )
    assert told in done.stdout
    found = json.loads(vita(*command, "--picture", "200x40", "--json").stdout)
    assert (found["picture"], found["pixels"], found["grid"], found["tokens"]) == ([200, 40], [32, 160], [2, 10], 20)
    wrong = vita(*command, "--picture", "200")
    assert wrong.returncode == 2
    assert "--picture: not a width and a height in pixels: '200'. Try: 1024x768" in wrong.stderr


def test_the_budget_is_that_of_the_language_models_tokens(naflex: dict[str, Any], tmp_path: Path) -> None:
    saved_transformers("qwen2_5_vl_vision", tmp_path)
    qwen = {"weights": str(tmp_path), "options": {"merger": True}}
    assert make_plan({"tower": qwen}).budget == (4, 32)  # 1024 to 8192 pixels, of which 16 x 16 are a token
    assert make_plan({"tower": qwen, "images": {"min_tokens": 6, "max_tokens": 20}}).budget == (6, 20)
    assert make_plan({"tower": naflex | {"pixel_shuffle": 0.5}}).budget == (1, 6)
    assert make_plan({"tower": naflex | {"select_feature": "cls_patch"}}).budget == (2, 26)
    assert make_plan({"tower": golden_settings("clip")}).budget is None


def test_a_tower_alone_plans_the_square(naflex: dict[str, Any]) -> None:
    plan, tower = make_plan({"tower": naflex}), build_tower(naflex)
    assert (plan.picture, plan.pixels, plan.grid, plan.budget) == (None, (80, 80), (5, 5), (1, 25))
    assert plan.stages[1].shape == tower(torch.zeros(1, 3, 80, 80)).shape
    assert "image_size" not in {setting.key for setting in plan.settings}
