"""Towers of native resolution: each picture keeps its aspect, and all go through the encoder in one call."""

from __future__ import annotations

from collections.abc import Sequence
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

from vita_core import VitaError, build_tower
from vita_core.towers.features import pixel_shuffle

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
            batch, indices=indices, intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True
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
        ({"pixel_shuffle": 0.125}, "tower.pixel_shuffle: 0.125 joins more patches than a picture has: 25"),
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
