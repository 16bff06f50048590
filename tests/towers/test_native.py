"""Towers of native resolution: each picture keeps its aspect, and all go through the encoder in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import close
from natives import SIZES, picture, saved_timm
from PIL import Image
from timm.data.naflex_dataset import NaFlexCollator
from torch import Tensor
from transformers import (
    Lfm2VlConfig,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from vita_core import BaseVisionTower, Shape, VitaError, build_tower, make_plan, register
from vita_core.towers.features import pixel_shuffle
from vita_plugins.timm import vita_towers
from vita_plugins.timm.geometry import shape as timm_shape
from vita_plugins.timm.tower import TimmTower

PICTURES = [picture(*size) for size in SIZES]


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory that timm saved, and timm's model. Its pictures have up to 25 patches."""
    folder = tmp_path_factory.mktemp("naflex")
    return folder, saved_timm(folder)


def timms_pixels(pictures: Sequence[Image.Image], *, patchify: bool, most: int = 25) -> list[Any]:
    """The pixels of timm's own transform."""
    means = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    transform = timm.data.create_transform(
        input_size=80, interpolation="bicubic", naflex=True, patch_size=16, max_seq_len=most, patchify=patchify, **means
    )
    return [transform(opened) for opened in pictures]


def timms_states(model: Any, pictures: Sequence[Image.Image], indices: list[int]) -> list[list[Tensor]]:
    """For each picture, timm's states (1, T, C) at `indices`: from one batch by timm's own collator."""
    batch, _ = NaFlexCollator(max_seq_len=25)([(cut, 0) for cut in timms_pixels(pictures, patchify=True)])
    with torch.no_grad():
        found = model.forward_intermediates(
            batch["patches"],
            patch_coord=batch["patch_coord"],
            patch_valid=batch["patch_valid"],
            indices=indices,
            intermediates_only=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )
    whole = [torch.cat([prefix, tokens], dim=1) for tokens, prefix in found]
    ends = 3 + batch["patch_valid"].sum(1)
    return [[states[row : row + 1, :end] for states in whole] for row, end in enumerate(ends.tolist())]


def test_timms_pixels_and_features(naflex: tuple[Path, Any]) -> None:
    folder, model = naflex
    tower = build_tower({"weights": str(folder)})
    pixels = tower.image_processor.preprocess(PICTURES)["pixel_values"]
    assert isinstance(pixels, list)
    for found, expected in zip(pixels, timms_pixels(PICTURES, patchify=False), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    states = timms_states(model, PICTURES, [2])
    together = tower(pixels)
    assert len({tokens.shape for tokens in together}) > 2
    for each, tokens, (expected,) in zip(pixels, together, states, strict=True):
        close(tokens, expected[:, 3:])
        close(tower([each])[0], expected[:, 3:])
        close(tower(each[None]), expected[:, 3:])


def test_all_pictures_go_through_the_encoder_in_one_call(
    naflex: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = build_tower({"weights": str(naflex[0])})
    pixels = tower.image_processor.preprocess(PICTURES)["pixel_values"]
    calls: list[int] = []
    run = tower.encoder.forward_intermediates
    monkeypatch.setattr(tower.encoder, "forward_intermediates", lambda *a, **k: (calls.append(1), run(*a, **k))[1])
    expected = tower(pixels)
    assert len(calls) == 1
    limited = build_tower({"weights": str(naflex[0]), "max_batch": 3})
    monkeypatch.setattr(limited.encoder, "forward_intermediates", lambda *a, **k: (calls.append(1), run(*a, **k))[1])
    for found, same in zip(limited(pixels), expected, strict=True):
        close(found, same)
    assert len(calls) == 3  # 3 pictures, then 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"select_layer": [1, 3]}, lambda one, three, _: torch.cat([one, three], -1)[:, 3:]),
        ({"norm": True, "feature_scale": 0.5}, lambda _, three, model: model.norm(three)[:, 3:] / 2),
        ({"select_feature": "cls"}, lambda _, three, model: three[:, :1]),
        ({"select_feature": "cls_patch"}, lambda _, three, model: torch.cat([three[:, :1], three[:, 3:]], 1)),
    ],
)
@torch.no_grad()
def test_features_are_selected_for_each_picture(
    naflex: tuple[Path, Any], settings: dict[str, Any], expected: Any
) -> None:
    folder, model = naflex
    tower = build_tower({"weights": str(folder), **settings})
    found = tower(tower.image_processor.preprocess(PICTURES)["pixel_values"])
    for tokens, (one, three) in zip(found, timms_states(model, PICTURES, [0, 2]), strict=True):
        close(tokens, expected(one, three, model))


@torch.no_grad()
def test_pixel_shuffle_has_the_grid_of_each_picture(naflex: tuple[Path, Any]) -> None:
    """The sides of the pictures are multiples of 2 patches then, so that each grid can be shuffled."""
    folder, model = naflex
    tower = build_tower({"weights": str(folder), "pixel_shuffle": 0.5})
    assert (tower.grid, tower.num_tokens, tower.hidden_size) == ((2, 2), 4, 128)
    pixels = tower.image_processor.preprocess(PICTURES)["pixel_values"]
    grids = [(image.shape[1] // 16, image.shape[2] // 16) for image in pixels]
    assert all(rows % 2 == cols % 2 == 0 and rows * cols <= 24 for rows, cols in grids)
    assert len({*grids}) > 2
    for image, tokens, grid in zip(pixels, tower(pixels), grids, strict=True):
        states = model.forward_intermediates(image[None], indices=[2], intermediates_only=True, output_fmt="NLC")
        close(tokens, pixel_shuffle(states[0], 0.5, grid=grid))
        assert tower.resolved.grid_of(*image.shape[1:]) == (grid[0] // 2, grid[1] // 2)


def test_gradients_and_dtypes_of_each_picture(naflex: tuple[Path, Any]) -> None:
    tower = build_tower({"weights": str(naflex[0]), "freeze": False})
    pixels = [torch.rand(3, 32, 64), torch.rand(3, 64, 48, dtype=torch.float16)]
    found = tower(pixels)
    assert [tokens.dtype for tokens in found] == [torch.float32, torch.float16]
    (found[0].sum() + found[1].float().sum()).backward()
    assert all(
        parameter.grad is not None for name, parameter in tower.encoder.named_parameters() if "norm." not in name
    )
    assert tower([]) == []
    assert tower(torch.zeros(0, 3, 32, 32)).shape == (0, 4, 32)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([torch.zeros(3, 30, 32)], "32 x 30 pixels is not made of whole blocks of 16 x 16"),
        ([torch.zeros(1, 32, 32)], r"wrong shape: \(1, 32, 32\)"),
        (torch.zeros(3, 32, 32), r"wrong shape: \(3, 32, 32\)"),
    ],
)
def test_pixels_of_another_shape(naflex: tuple[Path, Any], pixels: Any, message: str) -> None:
    with pytest.raises(VitaError, match=message):
        build_tower({"weights": str(naflex[0])})(pixels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"s2": {"scales": [80, 160]}}, "tower.s2: this encoder keeps the aspect of each picture"),
        ({"pool": 2}, "tower.pool: this encoder keeps the aspect of each picture"),
        ({"pixel_shuffle": 0.125}, "tower.pixel_shuffle: 8 x 8 patches would be joined, but a picture has at most 25"),
    ],
)
def test_steps_that_need_one_size(naflex: tuple[Path, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VitaError, match=message):
        build_tower({"weights": str(naflex[0]), **settings})


def test_values_that_are_not_finite_are_told(naflex: tuple[Path, Any]) -> None:
    tower = build_tower({"weights": str(naflex[0]), "check_finite": True})
    with pytest.raises(VitaError, match="The pixels are not finite either"):
        tower([torch.zeros(3, 32, 32), torch.full((3, 32, 48), torch.nan)])


def test_fast_pixels_differ_by_two_levels(naflex: tuple[Path, Any]) -> None:
    exact, fast = (
        build_tower({"weights": str(naflex[0]), "preprocess": way}).image_processor.preprocess(PICTURES)["pixel_values"]
        for way in ("exact", "fast")
    )
    for one, other in zip(exact, fast, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 2 / 127.5 + 1e-6


VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}


@torch.no_grad()
def test_siglip2_with_a_text_tower_and_without_a_head(tmp_path: Path) -> None:
    """The processor's default budget, 256 patches; the two-tower model and the bare one give the library's features."""
    vision, text = {**VISION, "num_patches": 16}, {**TEXT, "bos_token_id": 0, "eos_token_id": 1, "projection_size": 32}
    torch.manual_seed(0)
    both = Siglip2Model(Siglip2Config(vision_config=vision, text_config=text)).eval()
    bare = Siglip2VisionModel(Siglip2VisionConfig(**vision, vision_use_head=False)).eval()
    both.save_pretrained(tmp_path / "both")
    bare.save_pretrained(tmp_path / "bare")
    made = Siglip2ImageProcessorPil(patch_size=8)(PICTURES, return_tensors="pt")
    for name, model in (("both", both.vision_model), ("bare", bare)):
        tower = build_tower({"weights": str(tmp_path / name)})
        expected = model(**made, output_hidden_states=True).hidden_states[-1]
        found = tower(tower.image_processor.preprocess(PICTURES)["pixel_values"])
        for row, (tokens, (rows, cols)) in enumerate(zip(found, made["spatial_shapes"].tolist(), strict=True)):
            close(tokens, expected[row : row + 1, : rows * cols])


def test_pixels_are_those_that_siglip2_cuts_into_patches(tmp_path: Path) -> None:
    Siglip2VisionModel(Siglip2VisionConfig(**VISION, num_patches=16)).save_pretrained(tmp_path)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=100, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    pixels = build_tower({"weights": str(tmp_path)}).image_processor.preprocess(PICTURES)["pixel_values"]
    made = processor(PICTURES, return_tensors="pt")
    for image, cut, (rows, cols) in zip(pixels, made["pixel_values"], made["spatial_shapes"].tolist(), strict=True):
        patches = image.reshape(3, rows, 8, cols, 8).permute(1, 3, 2, 4, 0).reshape(rows * cols, -1)
        assert torch.equal(patches, cut[: rows * cols])


def test_a_processor_of_tiles_does_not_fit_siglip2s_encoder(tmp_path: Path) -> None:
    config = Lfm2VlConfig(vision_config={"model_type": "siglip2_vision_model", **VISION, "num_patches": 16})
    (tmp_path / "config.json").write_text(config.to_json_string())
    with pytest.raises(VitaError, match="preprocessor config: Lfm2VlImageProcessor cuts pictures into tiles"):
        make_plan({"tower": {"weights": str(tmp_path)}})


class WithoutPictures(TimmTower):
    """A tower that does not define encode_pictures."""

    encode_pictures = BaseVisionTower.encode_pictures


def test_a_plugin_without_encode_pictures(naflex: tuple[Path, Any], clean_registry: None) -> None:
    register(replace(vita_towers()[0], name="incomplete", factory=f"{__name__}:WithoutPictures"))
    with pytest.raises(VitaError, match=r"WithoutPictures defines no encode_pictures\(pictures, layers\)"):
        build_tower({"type": "incomplete", "weights": str(naflex[0])})([torch.zeros(3, 32, 32)])


def test_a_plugin_whose_shape_has_no_size(naflex: tuple[Path, Any], clean_registry: None) -> None:
    """It plans the square, and no other picture."""

    def unsized(config: dict[str, Any], options: dict[str, Any]) -> Shape:
        return timm_shape(config, options)

    register(replace(vita_towers()[0], name="unsized", shape=unsized))
    config = {"tower": {"type": "unsized", "weights": str(naflex[0])}}
    assert make_plan(config).grid == (5, 5)
    with pytest.raises(
        VitaError, match=r"its tower 'unsized' is that of pictures of \(80, 80\) pixels, not \(32, 160\)"
    ):
        make_plan(config, picture=(200, 40))
