"""Encode the pictures of a data set once, and keep what the measures need of their tokens on disk, by content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from vita_core.pixels.fused import Pixels
from vita_core.pixels.images import MAX_PIXELS
from vita_core.pixels.prefetching import prefetched
from vita_core.planning.geometry import Grid
from vita_core.probing.layers import Tokens, TowerReader, gridded
from vita_core.probing.pictures import Labelled, ref_of
from vita_core.training.cache.identity import identity
from vita_core.training.cache.store import FeatureStore
from vita_core.training.data import picture_of
from vita_core.weights.assets import cache_dir

__all__ = ["FeatureReader", "Features", "Timing", "cells"]

CACHE_BYTES = 10**10
SIDE = 6
"""The most rows, and the most columns, whose tokens patch retrieval compares."""


@dataclass
class Features:
    """What is kept of n pictures for one selection of layers, in float32.

    pooled: (n, C), the mean of the tokens of each picture. norms: the norms (N) of the tokens of each picture. patches and
    mirrored: (q, m, C), tokens of q pictures and those at the same places of the mirrored pictures (see `cells`); None for
    tokens without a grid.
    """

    pooled: Tensor
    norms: list[Tensor]
    patches: list[Tensor] | None = None
    mirrored: list[Tensor] | None = None
    columns: list[int] = field(default_factory=list)


@dataclass
class Timing:
    """The seconds that it took to encode so many pictures, and to read what was kept of so many."""

    encoded: int = 0
    encoding: float = 0.0
    kept: int = 0
    reading: float = 0.0


def cells(grid: Grid) -> tuple[list[int], int]:
    """Return the places, row by row, of up to 6 x 6 tokens of a grid (rows, cols), and the number of their columns.

    They are spread evenly, and a mirrored column is one of them: column j and the last but j.
    """
    rows, cols = grid[-2:]
    down, across = _spread(rows), _spread(cols)
    return [row * cols + col for row in down for col in across], len(across)


def _spread(count: int) -> list[int]:
    most = min(count, SIDE)
    first = [int((place + 0.5) * count / most) for place in range(most // 2)]
    middle = [count // 2] if most % 2 else []
    return [*first, *middle, *(count - 1 - place for place in reversed(first))]


class FeatureReader:
    """Reads features of the pictures of a data set through a tower, and keeps them in the cache directory.

    The key of a picture's features is the hash of its bytes, of the weights of the tower and of all that its tokens depend on.
    """

    def __init__(self, reader: TowerReader, data: Labelled, name: str) -> None:
        self.reader, self.data, self.name = reader, data, name
        self.identity = identity(reader.tower, reader.tower.resolved, reader.images, "float32")
        self.store = FeatureStore(
            cache_dir() / "features", CACHE_BYTES, "VITA_CACHE set to a directory on another disk"
        )
        self.max_pixels = reader.images.max_pixels or MAX_PIXELS
        self.timing = Timing()

    def features(self, mirrored: Collection[int]) -> list[Features]:
        """Return the features of all pictures for each selection; `mirrored` are the places of those to be mirrored too.

        Raises SampleError for a picture that changed since the data set was read, and VitaError if there is no space.
        """
        missing = [place for place in range(len(self.data.items)) if self._kept(place, place in mirrored) is None]
        start = time.perf_counter()
        bar = tqdm(total=len(missing), desc=self.name, unit="picture", disable=None if missing else True)
        with bar:
            for _, made in self._encoded(missing, mirrored):
                for key, tensor, number in made:
                    self.store.add(key, tensor, (number,))
                bar.update()
        self.store.flush()
        now = time.perf_counter()
        self.timing = Timing(len(missing), now - start if missing else 0.0, len(self.data.items))
        found = self._collected(mirrored)
        self.timing.reading = time.perf_counter() - now
        return found

    # one picture -----------------------------------------------------------------------------------------------------

    def _names(self, place: int, mirrored: bool) -> list[list[str]]:
        """Return the keys of what is kept of a picture, for each selection."""
        names = []
        for selection in self.reader.selections:
            base = f"{self.identity} {self.data.items[place].digest} {selection.geometry.layers}"
            kinds = ["tokens", *(["patches", "mirrored"] if mirrored and gridded(selection) else [])]
            names.append([hashlib.sha256(f"{base} {kind}".encode()).hexdigest() for kind in kinds])
        return names

    def _kept(self, place: int, mirrored: bool) -> list[list[tuple[Tensor, int]]] | None:
        found = []
        for keys in self._names(place, mirrored):
            kept = [self.store.get(key) for key in keys]
            if any(one is None for one in kept):
                return None
            found.append([(one[0], one[1][0]) for one in kept if one is not None])
        return found

    def _encoded(
        self, places: Sequence[int], mirrored: Collection[int]
    ) -> Iterator[tuple[int, list[tuple[str, Tensor, int]]]]:
        """Yield the place of each picture, with the key, the tensor and the number of all that is kept of it."""

        def load(place: int) -> tuple[int, list[Pixels]]:
            shown = picture_of(ref_of(self.data.source, self.data.items[place].index), self.max_pixels)
            views: list[Image.Image] = [shown, *([ImageOps.mirror(shown)] if place in mirrored else [])]
            return place, [self.reader.prepare(view) for view in views]

        with prefetched(places, load, batch=self.reader.together) as batches:
            for batch in batches:
                read = self.reader.read([pixels for _, views in batch for pixels in views])
                at = 0
                for place, views in batch:
                    own = [selected[at : at + len(views)] for selected in read]
                    at += len(views)
                    names = self._names(place, len(views) > 1)
                    yield (
                        place,
                        [
                            (key, *one)
                            for keys, selected in zip(names, own, strict=True)
                            for key, one in zip(keys, _summary(selected), strict=False)
                        ],
                    )

    # all pictures ----------------------------------------------------------------------------------------------------

    def _collected(self, mirrored: Collection[int]) -> list[Features]:
        kept: list[Any] = []
        for place in range(len(self.data.items)):
            found = self._kept(place, place in mirrored)
            if found is None:  # the cache is smaller than the data set
                ((_, made),) = self._encoded([place], mirrored)
                tensors = {key: (tensor, number) for key, tensor, number in made}
                found = [[tensors[key] for key in keys] for keys in self._names(place, place in mirrored)]
            kept.append(found)
        return [self._joined([found[number] for found in kept]) for number in range(len(self.reader.selections))]

    def _joined(self, kept: list[list[tuple[Tensor, int]]]) -> Features:
        first = [one[0] for one in kept]
        both = [(one[1], one[2]) for one in kept if len(one) == 3]
        return Features(
            torch.stack([tensor[:width] for tensor, width in first]),
            [tensor[width:] for tensor, width in first],
            [patches for (patches, _), _ in both] or None,
            [turned for _, (turned, _) in both] or None,
            [columns for (_, columns), _ in both],
        )


def _summary(views: Sequence[Tokens]) -> list[tuple[Tensor, int]]:
    """Return what is kept of a picture, and of its mirrored one if there are two `views`: each a tensor and a number."""
    tokens = views[0].tokens
    found = [(torch.cat([tokens.mean(0), tokens.norm(dim=-1)]), tokens.shape[1])]
    for view in views if len(views) > 1 else ():
        if view.grid is not None:
            places, columns = cells(view.grid)
            found.append((view.tokens[places], columns))
    return found
