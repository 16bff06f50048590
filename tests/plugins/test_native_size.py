"""The sizes that pictures are resized to for encoders of native resolution, beside the libraries' own functions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

from vita_core import NativeSize, VitaError

SIZES = [(768, 1024), (1024, 768), (224, 224), (30, 2000), (2000, 30), (17, 33), (3000, 4000), (5, 900), (1, 1)]


@pytest.mark.parametrize("budget", [4, 20, 256, 729, 1024])
@pytest.mark.parametrize("size", SIZES)
def test_fill_is_the_rule_of_naflex(size: tuple[int, int], budget: int) -> None:
    assert NativeSize(16, budget).size(*size) == get_image_size_for_max_num_patches(*size, 16, budget)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("least", "most"), [(56 * 56, 28 * 28 * 1280), (3136, 1_000_000), (200_000, 200_704)])
def test_between_is_the_rule_of_qwen(size: tuple[int, int], least: int, most: int) -> None:
    native = NativeSize(14, Fraction(most, 196), 2, Fraction(least, 196), "between")
    assert native.size(*size) == smart_resize(*size, factor=28, min_pixels=least, max_pixels=most)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("edge", "patch", "merge"), [(1024, 16, 1), (1540, 14, 2), (1000, 16, 1), (64, 16, 1)])
def test_longest_edge_is_the_rule_of_pixtral(size: tuple[int, int], edge: int, patch: int, merge: int) -> None:
    block = patch * merge
    native = NativeSize(patch, Fraction(edge**2, patch**2), merge, rule="longest_edge")
    resized = get_resize_output_image_size(np.zeros((3, *size)), (edge, edge), (block, block))
    # the library resizes very narrow pictures to nothing, and fails
    assert native.size(*size) == tuple(max(block, side) for side in resized)


def test_the_square_fills_the_budget() -> None:
    assert NativeSize(16, 256).square == (256, 256)
    assert NativeSize(16, 255).square == (240, 240)
    assert NativeSize(14, 255, merge=2).square == (14 * 14, 14 * 14)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 16, "max_tokens": 3, "merge": 2}, "no picture fits 1 to 3 patches"),
        ({"patch": 16, "max_tokens": 9, "min_tokens": 10}, "no picture fits 10 to 9 patches"),
        ({"patch": 0, "max_tokens": 9}, "patches of 0 pixels"),
        ({"patch": 16, "max_tokens": 9, "rule": "smart"}, "NativeSize.rule: unknown: 'smart'"),
    ],
)
def test_impossible_sizes(settings: dict[str, int], message: str) -> None:
    with pytest.raises(VitaError, match=message):
        NativeSize(**settings)  # type: ignore[arg-type]  # a test of wrong values


@pytest.mark.parametrize(
    ("native", "size", "message"),
    [
        (NativeSize(16, 256), (20_000, 2), "2 x 20000 pixels has an aspect ratio above 200:1"),
        (NativeSize(16, 256), (0, 2), "has no pixels"),
        (NativeSize(14, 16, 2, 4, "between"), (2, 300), "300 x 2 pixels is too narrow for 16 patches"),
        (NativeSize(16, 256, max_side=20), (100, 2000), "has positions for 20 on a side"),
    ],
)
def test_pictures_that_cannot_keep_their_aspect(native: NativeSize, size: tuple[int, int], message: str) -> None:
    with pytest.raises(VitaError, match=message):
        native.size(*size)


def test_parts_of_blocks_are_refused() -> None:
    assert NativeSize(14, 256, 2).grid(28, 84) == (2, 6)
    with pytest.raises(VitaError, match="42 x 28 pixels is not made of whole blocks of 28 x 28"):
        NativeSize(14, 256, 2).grid(28, 42)
