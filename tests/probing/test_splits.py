"""Splits: near-duplicates stay together, each label is divided, and equal arguments give equal splits."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vita_core.errors import ConfigError, PictureError
from vita_core.probing.splits import difference_hash, divide, grouped, near_duplicates
from vita_core.training.data import PictureRef, SampleError


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture of smooth coloured areas, as unlike the others as photos are."""
    rows = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(rows).resize(size, Image.Resampling.BICUBIC)


def stored(shown: Image.Image, quality: int = 40) -> bytes:
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_the_hash_says_where_a_row_gets_brighter() -> None:
    rows = np.zeros((8, 9), np.uint8)
    rows[0] = range(9)
    rows[1] = range(9, 0, -1)
    rows[7, -1] = 255
    assert difference_hash(Image.fromarray(rows)) == (0xFF << 56) | 1


def test_near_duplicates_are_one_group_and_other_pictures_are_not(tmp_path: Path) -> None:
    first, second = picture(0), picture(1)
    first.save(tmp_path / "first.png")
    copies = [
        PictureRef("first.jpg", data=stored(first)),
        first.resize((48, 32)),
        ImageEnhance.Brightness(first).enhance(1.1),
    ]
    found = near_duplicates([tmp_path / "first.png", second, *copies, picture(2), stored_ref(second)])
    assert found == (0, 1, 0, 0, 0, 2, 1)


def stored_ref(shown: Image.Image) -> PictureRef:
    return PictureRef("a.jpg", data=stored(shown))


def test_hashes_that_others_connect_are_one_group() -> None:
    near, nearer = (1 << 6) - 1, (1 << 12) - 1  # 6 bits from 0 and from each other, 12 bits from 0
    assert grouped([0, nearer]) == (0, 1)
    assert grouped([0, nearer, near]) == (0, 0, 0)
    assert grouped([0, 127]) == (0, 1)
    assert grouped([0, 127], distance=7) == (0, 0)
    assert grouped([]) == ()


def test_more_pictures_than_are_compared_at_once() -> None:
    values = [*np.random.default_rng(0).integers(0, 2**63, 1100)]
    assert grouped([*map(int, values), int(values[0])]) == (*range(1100), 0)


def test_broken_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="cannot be opened"):
        near_duplicates([PictureRef("a.png", data=b"none")])
    with pytest.raises(PictureError, match="no such file"):
        near_duplicates([tmp_path / "gone.png"])


def test_every_sample_is_in_one_split_and_groups_are_whole() -> None:
    groups = [*np.random.default_rng(1).integers(0, 60, 200)]
    found = divide(groups, seed=3)
    assert sorted([*found.train, *found.validation, *found.test]) == [*range(200)]
    homes = [{groups[sample] for sample in part} for part in (found.train, found.validation, found.test)]
    assert not homes[0] & homes[1] | homes[0] & homes[2] | homes[1] & homes[2]
    assert [abs(len(found.validation) - 30) <= 2, abs(len(found.test) - 30) <= 2] == [True, True]
    assert found.groups == tuple(groups)


def test_equal_seeds_give_equal_splits() -> None:
    assert divide(range(100), seed=1) == divide(range(100), seed=1)
    assert divide(range(100), seed=1).test != divide(range(100), seed=2).test


def test_each_label_is_divided() -> None:
    labels = [name for name, count in (("cat", 20), ("dog", 40), ("cup", 20)) for _ in range(count)]
    found = divide(range(80), seed=0, labels=labels)
    assert Counter(labels[sample] for sample in found.test) == {"cat": 3, "dog": 6, "cup": 3}
    assert Counter(labels[sample] for sample in found.validation) == {"cat": 3, "dog": 6, "cup": 3}


def test_what_rounding_leaves_over_goes_to_the_next_label() -> None:
    labels = [f"name {number // 3}" for number in range(120)]  # three of each: 0.45 for the test
    found = divide(range(120), seed=0, labels=labels)
    assert [len(found.train), len(found.validation), len(found.test)] == [84, 18, 18]


def test_a_label_of_one_group_does_not_starve_the_others() -> None:
    labels = ["burst"] * 30 + ["cat"] * 20
    groups = [0] * 30 + [*range(1, 21)]
    found = divide(groups, seed=0, labels=labels)
    assert Counter(labels[sample] for sample in found.train) == {"burst": 30, "cat": 14}


def test_shares_are_checked() -> None:
    with pytest.raises(ConfigError, match="no share for training"):
        divide([0, 1], seed=0, validation=0.5, test=0.5)


def test_split_is_divide_of_near_duplicates() -> None:
    pictures = [picture(number // 2) for number in range(40)]
    found = divide(near_duplicates(pictures), seed=5, labels=["a", "a", "b", "b"] * 10)
    assert found == divide([number // 2 for number in range(40)], seed=5, labels=["a", "a", "b", "b"] * 10)
