"""Cache the frozen tower's features of all training pictures and their variants on disk, so that each is encoded once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vita_core.config.schema import Config
from vita_core.errors import VitaError
from vita_core.models.pictures import encoded, grid_of, prepare
from vita_core.pixels.fused import Pixels
from vita_core.pixels.images import MAX_PIXELS, open_picture
from vita_core.pixels.prefetching import prefetched
from vita_core.towers.tower import BaseVisionTower
from vita_core.training.cache.identity import identity
from vita_core.training.data import Sample
from vita_core.training.variants import varied
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.limits import RECORD
from vita_core.weights.files import sha256, write_text, writing

__all__ = ["FeatureCache"]

BATCH = 32


class FeatureCache:
    """A memory-mapped float16 array of features (variants + 1, samples, N, C), and the number of tokens of each.

    Index 0 of the first axis is the unchanged pictures. N is the number of tokens of the largest picture; with native
    resolution, `lengths` (variants + 1, samples) says how many of them are used. `grids` (variants + 1, samples, 2) are their
    rows and columns, or zeros if the tokens are on no grid. `fill` computes the features in order, and
    continues where an interrupted run stopped. A cache of other pictures (their bytes), another seed or a tower whose weights,
    settings or libraries are others is discarded. `seed` is that of the variants, by default the training's.
    """

    def __init__(
        self, folder: Path, config: Config, tower: BaseVisionTower, samples: Sequence[Sample], seed: int | None = None
    ) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.seed = config.training.seed if seed is None else seed
        # alignment uses one tile per picture, so that every sample has the same number of tokens
        self.config = config.model_copy(update={"images": config.images.model_copy(update={"tiles": None})})
        self.tower, self.samples = tower, samples
        self.copies = config.training.variants + 1
        self.shape = (self.copies, len(samples), tower.resolved.most_tokens, tower.hidden_size)
        self._progress = folder / "features.json"
        self._file = folder / "features.npy"
        self._key = self._identity()
        kept = all((folder / name).is_file() for name in ("features.npy", "lengths.npy", "grids.npy"))
        fresh = not kept or self._read_progress() is None
        if fresh:
            self._progress.unlink(missing_ok=True)
        self.array: NDArray[np.float16] = self._opened(self._file, np.float16, self.shape, fresh)
        self.lengths: NDArray[np.int32] = self._opened(folder / "lengths.npy", np.int32, self.shape[:2], fresh)
        grids = (*self.shape[:2], 2)
        self.grids: NDArray[np.int32] = self._opened(folder / "grids.npy", np.int32, grids, fresh)
        if fresh:
            self.lengths[:] = self.shape[2]

    def _opened(self, file: Path, dtype: type, shape: tuple[int, ...], fresh: bool) -> Any:
        """Map a file, with its disk space reserved. Raises VitaError if it cannot be written."""
        size = np.dtype(dtype).itemsize * math.prod(shape)
        with writing(file, size, "another directory for --out, or fewer `training.variants`"):
            mode: Literal["w+", "r+"] = "w+" if fresh else "r+"
            try:
                array = np.lib.format.open_memmap(file, mode, dtype=dtype, shape=shape if fresh else None)
                _reserve(file)
            except OSError:
                if fresh:
                    file.unlink(missing_ok=True)
                raise
        return array

    def _identity(self) -> str:
        tower = identity(self.tower, self.tower.resolved, self.config.images, "float32")
        pictures = "".join(sha256(sample.image) for sample in self.samples)
        return hashlib.sha256(f"{tower}{self.seed}{self.shape}{pictures}".encode()).hexdigest()

    def _read_progress(self) -> int | None:
        if not self._progress.is_file():
            return None
        saved = read_object(self._progress, RECORD)
        return int(saved["done"]) if saved.get("key") == self._key else None

    @torch.inference_mode()
    def fill(self) -> None:
        """Encode the pictures that are not in the cache yet. The next pictures are read while the tower runs.

        What is done is kept if it stops in the middle, as by Ctrl-C.
        """
        total, done = self.copies * len(self.samples), self._read_progress() or 0
        flat, lengths = self.array.reshape(total, *self.shape[2:]), self.lengths.reshape(total)
        grids = self.grids.reshape(total, 2)
        bar = tqdm(total=total, initial=done, unit="picture", desc="features", disable=None)
        try:
            with prefetched(range(done, total), self._pixels, batch=BATCH) as batches, bar:
                for pixels in batches:
                    for features, picture in zip(encoded(self.tower, pixels), pixels, strict=True):
                        self._check_length(features)
                        lengths[done], grids[done] = features.shape[1], grid_of(self.tower, picture) or (0, 0)
                        flat[done, : features.shape[1]] = features[0].to(torch.float16).cpu().numpy()
                        done += 1
                    bar.update(len(pixels))
                    if done // BATCH % 20 == 0:
                        self._record(done)
        finally:  # whole batches: some kernels compute other bits in smaller ones
            self._record(done if done == total else done // BATCH * BATCH)

    def _record(self, done: int) -> None:
        """Write what was computed so far, and that it is."""
        written: tuple[Any, ...] = (self.array, self.lengths, self.grids)
        for array in written:
            array.flush()  # a numpy.memmap
        write_text(self._progress, json.dumps({"key": self._key, "done": done}))

    def _check_length(self, features: Tensor) -> None:
        """Raise VitaError for features (1, N, C) of a picture that a rule of native resolution sized beyond its budget."""
        if features.shape[1] > self.shape[2]:
            raise VitaError(
                f"images.max_tokens: a picture has {features.shape[1]} tokens, more than the budget of {self.shape[2]}, which is "
                "too near to the lower limit. Try: a larger `images.max_tokens`, or a smaller `images.min_tokens`"
            )

    def features(self, copy: int, index: int) -> Tensor:
        """Return the features (N, C) of a copy of a sample."""
        return torch.from_numpy(self.array[copy, index, : self.lengths[copy, index]].astype("float32"))

    def grid(self, copy: int, index: int) -> Tensor:
        """Return the rows and columns (2) of the features of a copy of a sample, or zeros if they are on no grid."""
        return torch.from_numpy(self.grids[copy, index].copy())

    def _pixels(self, item: int) -> Pixels:
        """Return the pixels (1, 3, H, W) of a picture or a variant. The variant only depends on the seed and `item`."""
        copy, index = divmod(item, len(self.samples))
        picture = open_picture(self.samples[index].image, max_pixels=self.config.images.max_pixels or MAX_PIXELS)
        if copy:
            side = self.tower.resolved.geometry.input_size[0]
            picture = varied(picture, random.Random(f"{self.seed}-{item}"), side)
        return prepare(self.tower, self.config.images, picture).copied(self.tower.device).pixels


def _reserve(file: Path) -> None:
    """Reserve the disk space of a memory-mapped file, or raise OSError.

    Such a file has no blocks until they are written to, and a disk that is full by then ends the process with SIGBUS.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
