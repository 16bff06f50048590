"""Divide a data set into training, validation and test pictures, so that near-duplicates stay together."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vita_core.errors import ConfigError
from vita_core.pixels.images import open_picture
from vita_core.pixels.prefetching import prefetched
from vita_core.training.data import PictureRef, picture_of

__all__ = ["DISTANCE", "Picture", "Splits", "difference_hash", "divide", "grouped", "near_duplicates"]

Picture = PictureRef | Path | Image.Image
"""What can be compared: a picture of a data set, a file, or an open picture."""
DISTANCE = 6
"""Up to how many different bits of their hashes two pictures are near-duplicates.

Of 400 photos, 99% are this near to themselves saved as JPEG of quality 40, at half the size, or with a little more contrast.
"""
ROWS = 1024
"""The hashes of so many pictures are compared with all others at once."""
CARRIED = 0.5
"""The most of a picture that a label's rounding moves to the next label."""


@dataclass(frozen=True)
class Splits:
    """The numbers of the samples of each split, ascending, and for each sample the number of its group of near-duplicates."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    groups: tuple[int, ...]


def difference_hash(picture: Image.Image) -> int:
    """Return the difference hash of a picture, 64 bits (Neal Krawetz, "Kind of Like That", hackerfactor.com, 2013).

    The picture is shrunk to 9 x 8 grey values. Each bit says whether a value is brighter than the one to its left.
    """
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def near_duplicates(pictures: Sequence[Picture], distance: int = DISTANCE) -> tuple[int, ...]:
    """Return for each picture the number of its group of near-duplicates, as `grouped` does with their difference hashes.

    Raises PictureError or SampleError for a picture that cannot be opened.
    """
    with prefetched(pictures, lambda picture: difference_hash(_opened(picture)), batch=64) as batches:
        return grouped([found for batch in batches for found in batch], distance)


def _opened(picture: Picture) -> Image.Image:
    return picture_of(picture) if isinstance(picture, PictureRef) else open_picture(picture)


def grouped(hashes: Sequence[int], distance: int = DISTANCE) -> tuple[int, ...]:
    """Return for each hash the number of its group: 0 for the first one's, and so on.

    Hashes that differ in at most `distance` bits are in one group, and so are those that others connect. Every pair is
    compared.
    """
    values = np.array([*hashes], dtype=np.uint64)
    above = [*range(len(values))]

    def top(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    for start in range(0, len(values), ROWS):
        near = np.bitwise_count(values[start : start + ROWS, None] ^ values[None, :]) <= distance
        for row, column in zip(*np.nonzero(near), strict=True):
            first, second = sorted((top(start + int(row)), top(int(column))))
            above[second] = first
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(top(place), len(numbers)) for place in range(len(values)))


def divide(
    groups: Sequence[int],
    *,
    seed: int,
    validation: float = 0.15,
    test: float = 0.15,
    labels: Sequence[str] | None = None,
) -> Splits:
    """Return splits in which each group is whole. The rest of `validation` and `test`, shares of the samples, is for training.

    With `labels`, each label is divided by these shares as well as its groups allow; a group counts to its most frequent
    label. Equal arguments give equal splits. Raises ConfigError for shares that leave nothing for training.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ConfigError(
            f"split: validation {validation:g} and test {test:g} leave no share for training. Try: shares whose sum is below 1"
        )
    shares = (1 - validation - test, validation, test)
    members: dict[int, list[int]] = {}
    for sample, group in enumerate(groups):
        members.setdefault(group, []).append(sample)
    found: tuple[list[int], list[int], list[int]] = ([], [], [])
    rest = [0.0, 0.0, 0.0]
    for together in _by_label([*members.values()], labels, random.Random(seed)):
        left = [share * sum(map(len, together)) + more for share, more in zip(shares, rest, strict=True)]
        for samples in together:
            place = max((0, 1, 2), key=lambda place: (left[place], -place))
            left[place] -= len(samples)
            found[place].extend(samples)
        rest = [min(CARRIED, max(-CARRIED, more)) for more in left]
    train, middle, last = (tuple(sorted(samples)) for samples in found)
    return Splits(train, middle, last, tuple(groups))


def _by_label(
    groups: Sequence[Sequence[int]], labels: Sequence[str] | None, order: random.Random
) -> Iterator[list[Sequence[int]]]:
    """Yield the groups of each label, in random order but the largest ones first, which are the hardest to place."""
    sorted_in: dict[str, list[Sequence[int]]] = {}
    for samples in groups:
        counts = Counter(labels[sample] for sample in samples) if labels is not None else Counter([""])
        sorted_in.setdefault(min(counts, key=lambda label: (-counts[label], label)), []).append(samples)
    names = sorted(sorted_in)
    order.shuffle(names)
    for name in names:
        together = sorted_in[name]
        order.shuffle(together)
        yield sorted(together, key=len, reverse=True)
