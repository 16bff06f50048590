"""A frozen tower in a training: each picture goes through it once, and its tokens are kept."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita_core.config.training import CacheConfig
from vita_core.models.model import VisionLanguageModel
from vita_core.models.pictures import encoded
from vita_core.pixels.fused import FusedPixels, Pixels
from vita_core.pixels.images import MAX_PIXELS
from vita_core.planning.reduction_weights import before_learning
from vita_core.towers.tower import BaseVisionTower
from vita_core.training.cache.identity import identity
from vita_core.training.cache.store import FeatureStore
from vita_core.training.data import PictureRef
from vita_core.training.data.pictures import picture_of
from vita_core.training.stages import Stage

__all__ = ["Features", "FrozenTower", "Keyed", "Visual", "frozen_tower"]


@dataclass(frozen=True)
class Keyed:
    """The pixels (tiles, 3, H, W) of a picture of `size` (width, height), and the key under which its tokens are kept."""

    key: str
    pixels: Pixels
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, *args: Any, **kwargs: Any) -> Keyed:
        """Move the pixels, as ``Tensor.to`` does."""
        return replace(self, pixels=self.pixels.to(*args, **kwargs))


@dataclass(frozen=True)
class Features:
    """The tokens (tiles, N, C) of a picture of `size`, before the first reduction that learns.

    `sides` is the (height, width) of the pixels that they come from, of a fused tower those of its first part.
    """

    tokens: Tensor
    size: tuple[int, int]
    sides: tuple[int, int]

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, *args: Any, **kwargs: Any) -> Features:
        """Move the tokens, as ``Tensor.to`` does."""
        return replace(self, tokens=self.tokens.to(*args, **kwargs))


Visual = Pixels | Keyed | Features
"""A picture on its way to the language model: to be encoded, or encoded already."""


def frozen_tower(model: VisionLanguageModel, stage: Stage, folder: Path) -> FrozenTower | None:
    """Return what encodes the pictures of a stage that does not train the tower, with its cache, or None if it does.

    The cache is in `folder` unless the config names another directory. With `parallel: fsdp2` or `zero3` there is none:
    every process has to run the tower as often as the others there.
    """
    training = model.settings.training
    if "tower" in stage.parts or training.parallel != "ddp":
        return None
    store, cache = None, training.cache
    if cache is not False:
        cache = CacheConfig() if cache == "auto" else cache
        place = folder if cache.path is None else Path(cache.path)
        store = FeatureStore(place, int(cache.max_gb * 1e9))
    return FrozenTower(model, store, stage.settings.precision)


class FrozenTower:
    """Encodes the pictures of a stage that trains no weight of the tower before its first reduction that learns.

    The tokens there are kept in `store`, if there is one. On a CPU each picture goes through the tower alone, so that its
    tokens do not depend on what is kept already.
    """

    def __init__(self, model: VisionLanguageModel, store: FeatureStore | None, precision: str) -> None:
        self.model, self.store, self.precision = model, store, precision
        self.front, _ = before_learning(model.tower.resolved)
        self.cut = len(self.front.geometry.reductions)
        self.digests: dict[PictureRef, tuple[tuple[int, ...], str]] = {}

    @functools.cached_property
    def identity(self) -> str:
        """The hash of everything but the picture that its tokens depend on."""
        return identity(self.model.tower, self.front, self.model.settings.images, self.precision)

    # before the batch ------------------------------------------------------------------------------------------------

    def visual(self, ref: PictureRef, *, several: bool, keep: bool = True) -> Keyed | Features:
        """Return the tokens of a picture if they are kept, else its pixels. Raises SampleError as `picture_of` does.

        A picture that is gone, but was read before, is found by its content then. `several` is that of `prepare`. Unless `keep`,
        it is neither found nor kept.
        """
        anyres = self.model.settings.images.anyres
        way = "whole" if several and anyres is not None and anyres.several == "pad" else "alone"
        if self.store is not None and keep and (digest := self._digest(ref)) is not None:
            key = self._key(f"{digest} {way}")
            if (kept := self._kept(key)) is not None:
                return kept
        content = self._read(ref)
        picture = picture_of(content, self.model.settings.images.max_pixels or MAX_PIXELS)
        prepared = self.model.prepare(picture, several=several)
        digest = "" if content.data is None else hashlib.sha256(content.data).hexdigest()
        return Keyed(self._key(f"{digest} {way}") if keep else "", prepared.pixels, prepared.size)

    def blank(self, pixels: Pixels) -> Keyed:
        """Return the pixels of the blank picture that stands for none, whose tokens are kept too."""
        return Keyed(self._key("blank"), pixels, _sides(pixels))

    def _key(self, picture: str) -> str:
        return hashlib.sha256(f"{self.identity} {picture}".encode()).hexdigest() if self.store is not None else ""

    def _digest(self, ref: PictureRef) -> str | None:
        """Return the SHA-256 of a picture's bytes, or None if they cannot be read. A file is read again if it changed."""
        if ref.data is not None:
            return hashlib.sha256(ref.data).hexdigest()
        known = self.digests.get(ref)
        assert ref.path is not None  # a ref without data has a path
        try:
            found = ref.path.stat()
        except OSError:  # gone: what it was may be known
            return None if known is None else known[1]
        state = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
        if known is not None and known[0] == state:
            return known[1]
        content = self._read(ref).data
        if content is None:
            return None
        self.digests[ref] = (state, hashlib.sha256(content).hexdigest())
        return self.digests[ref][1]

    def _read(self, ref: PictureRef) -> PictureRef:
        """Return a picture with its bytes, so that those that are decoded are those that are hashed."""
        try:
            with ref.opened() as file:
                return replace(ref, data=file.read())
        except OSError:
            return ref

    def _kept(self, key: str) -> Features | None:
        kept = None if self.store is None else self.store.get(key)
        if kept is None:
            return None
        tokens, (width, height, rows, cols) = kept
        return Features(tokens, (width, height), (rows, cols))

    # in the batch ----------------------------------------------------------------------------------------------------

    def encode_each(self, pictures: Sequence[Visual]) -> list[Tensor]:
        """Return the projected tokens (tiles, N', D) of each picture, as `PictureTokens.encode_each` does."""
        found, tower = self.features(pictures), self.model.tower
        tokens = [each.tokens.to(tower.device, torch.float32) for each in found]
        if tower.shape.native is None:
            whole = self._projected(torch.cat(tokens), self.front.geometry.grid, tower.grid)
            return list(whole.split([len(each) for each in found]))
        sides = [each.sides for each in found]
        grids = [(self.front.grid_of(*side), tower.resolved.grid_of(*side)) for side in sides]
        return [self._projected(each, *grid) for each, grid in zip(tokens, grids, strict=True)]

    def _projected(self, tokens: Tensor, grid: Any, behind: Any) -> Tensor:
        """Return the projected tokens of tokens (B, N, C) on `grid`, which are on the grid `behind` after the reductions."""
        reduced, _ = self.model.tower.reduced(tokens, grid, first=self.cut)
        return self.model.projected(reduced.to(torch.float32), behind)

    def features(self, pictures: Sequence[Visual]) -> list[Features]:
        """Return the tokens of each picture, and keep those that are new."""
        found: dict[int, Features] = {}
        missing: dict[str, list[int]] = {}
        for place, picture in enumerate(pictures):
            if isinstance(picture, Features):
                found[place] = picture
                continue
            key = picture.key if isinstance(picture, Keyed) else ""
            kept = self._kept(key) if key else None
            if kept is None:
                missing.setdefault(key or str(place), []).append(place)
            else:
                found[place] = kept
        firsts = [places[0] for places in missing.values()]
        made = iter(self._encoded([_pixels(pictures[place]) for place in firsts]))
        for key, places in missing.items():
            first = pictures[places[0]]
            pixels = _pixels(first)
            size = first.size if isinstance(first, Keyed) else _sides(pixels)
            features = Features(next(made), size, _sides(pixels))
            found |= dict.fromkeys(places, features)
            if self.store is not None and isinstance(first, Keyed) and first.key:
                self.store.add(key, self._exact(features.tokens), (*features.size, *features.sides))
        return [found[place] for place in range(len(pictures))]

    @torch.no_grad()
    def _encoded(self, pictures: Sequence[Pixels]) -> list[Tensor]:
        """Return the tokens (tiles, N, C) of each of the pixels before the first reduction that learns."""
        tower, one = self.model.tower, self.model.tower.device.type == "cpu"
        dtype = getattr(torch, self.precision)
        with _ending(tower, self.cut), torch.autocast(tower.device.type, dtype, enabled=dtype != torch.float32):
            batches = [[pixels] for pixels in pictures] if one else [list(pictures)] if pictures else []
            return [tokens for batch in batches for tokens in encoded(tower, batch)]

    def _exact(self, tokens: Tensor) -> Tensor:
        """Return tokens in the dtype of the tower if it holds the same values, else unchanged."""
        smaller = tokens.to(self.model.tower.dtype)
        return smaller if torch.equal(smaller.to(tokens.dtype), tokens) else tokens

    def flush(self) -> None:
        """Write what is not on disk yet. Raises VitaError if there is no space."""
        if self.store is not None:
            self.store.flush()


@contextmanager
def _ending(tower: BaseVisionTower, cut: int) -> Iterator[None]:
    tower.ends_before = cut
    try:
        yield
    finally:
        tower.ends_before = None


def _pixels(picture: Visual) -> Pixels:
    assert not isinstance(picture, Features)
    return picture.pixels if isinstance(picture, Keyed) else picture


def _sides(pixels: Pixels) -> tuple[int, int]:
    """Return the height and width of the pixels of a picture."""
    height, width = (pixels.first if isinstance(pixels, FusedPixels) else pixels).shape[-2:]
    return height, width
