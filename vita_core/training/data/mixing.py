"""The order in which samples are drawn: a pure function of the seed and the position, over all data sets and epochs.

A run that is resumed goes on at its position, and reads nothing of what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vita_core.errors import ConfigError, PictureError, split_advice
from vita_core.training.data.rejecting import RejectedLog
from vita_core.training.data.samples import Sample, SampleError, Source, located

__all__ = ["DataSet", "Drawn", "Mixture", "check_pictures", "parted"]

Made = TypeVar("Made")
HELD_OUT, ROUND, BLOCKS = 1, 2, 3
"""What a random order is for. Each has its own random numbers."""


@dataclass(frozen=True)
class DataSet:
    """A named source. A sample of a set with weight 2 is drawn twice as often as one with weight 1."""

    name: str
    source: Source
    weight: float = 1.0

    @property
    def share(self) -> int:
        """How many of its samples are drawn in one epoch of the mixture."""
        return max(1, round(self.weight * len(self.source)))


def check_pictures(sets: Sequence[DataSet]) -> None:
    """Raise ConfigError if no sample of any data set has a picture or video. It reads up to the first one that has."""
    first, count = "", 0
    for one in sets:
        for index in range(len(one.source)):
            try:
                sample = one.source.sample(index)
            except SampleError as error:
                first, count = first or split_advice(str(error))[0], count + 1
                continue
            if sample.pictures or sample.videos:
                return
    names, samples = ", ".join(one.name for one in sets), sum(len(one.source) for one in sets)
    why = f"; {count:,} of {samples:,} samples are rejected, such as {first}" if count else ""
    raise ConfigError(
        f"data: no sample has a picture: {names}{why}. Try: `vita data show PATH`, which prints a sample as it is read, or "
        "train a language model alone with its own tools"
    )


class Mixture:
    """Draws from data sets: in an epoch, `share` samples of each, in random order.

    A set gives each of its samples once before it gives one again. It shuffles its blocks (the shards), and then the samples
    of a block, so that a shard is read once and whole.
    """

    def __init__(self, sets: Sequence[DataSet], seed: int) -> None:
        self.sets, self.seed = list(sets), seed
        self.epoch = sum(one.share for one in sets)
        self.drawn: tuple[int, NDArray[np.int16], NDArray[np.int32]] = (
            -1,
            np.zeros(0, np.int16),
            np.zeros(0, np.int32),
        )
        self.orders: dict[int, tuple[int, _Order]] = {}

    def place(self, position: int, later: int = 0) -> tuple[int, int]:
        """Return the number of the data set that is drawn from at a position, and the index of its sample.

        With `later`, it is the sample that this set gives so many draws later.
        """
        number, within = divmod(position, self.epoch)
        which, ranks = self._round(number)
        chosen = int(which[within])
        one = self.sets[chosen]
        rank = number * one.share + int(ranks[within]) + later
        epoch, rest = divmod(rank, len(one.source))
        kept, order = self.orders.get(chosen, (-1, None))
        if kept != epoch or order is None:
            order = _Order(one.source.blocks, self.seed, chosen, epoch)
            self.orders[chosen] = (epoch, order)
        return chosen, order.index(rest)

    def _round(self, number: int) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
        """Return which data set is drawn from at each position of an epoch, and how often it was before in this epoch."""
        kept, which, ranks = self.drawn
        if kept != number:
            shares = [one.share for one in self.sets]
            sorted_sets = np.repeat(np.arange(len(shares), dtype=np.int16), shares)
            which = sorted_sets[_shuffled(self.epoch, self.seed, ROUND, number)]
            ranks = np.empty(self.epoch, np.int32)
            for chosen, share in enumerate(shares):
                ranks[which == chosen] = np.arange(share, dtype=np.int32)
            self.drawn = (number, which, ranks)
        return which, ranks


class _Order:
    """One epoch of a data set: its blocks in random order, and the samples of each in random order."""

    def __init__(self, blocks: Sequence[int], seed: int, number: int, epoch: int) -> None:
        self.keys = (seed, BLOCKS, number, epoch)
        self.blocks = _shuffled(len(blocks), *self.keys)
        self.sizes = [blocks[block] for block in self.blocks]
        self.starts = list(accumulate(self.sizes, initial=0))[:-1]
        self.firsts = list(accumulate(blocks, initial=0))
        self.kept: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def index(self, place: int) -> int:
        """Return the index of the sample at a place of this epoch."""
        number, within = located(self.starts, place)
        block = int(self.blocks[number])
        kept, order = self.kept
        if kept != block:
            order = _shuffled(self.sizes[number], *self.keys, block)
            self.kept = (block, order)
        return self.firsts[block] + int(order[within])


def _shuffled(count: int, seed: int, *keys: int) -> NDArray[np.int64]:
    """Return 0..count-1 in random order. The raw numbers of a bit generator are the same in every version of numpy."""
    raw = np.random.PCG64(np.random.SeedSequence([seed & (2**64 - 1), *keys])).random_raw(count)
    return np.argsort(np.atleast_1d(raw), kind="stable")


class _Chosen:
    """Some of the samples of a source."""

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        self.source, self.indices = source, indices
        starts = np.cumsum([0, *source.blocks])
        counts = np.diff(np.searchsorted(indices, starts))
        self.blocks = tuple(int(count) for count in counts)

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        """Return one sample. Raises SampleError."""
        return self.source.sample(int(self.indices[index]))


def parted(source: Source, held_out: float, seed: int) -> tuple[Source, Source | None]:
    """Return the samples to train on, and the share `held_out` of the samples, which are chosen at random; None for none."""
    count = round(len(source) * held_out)
    if count == 0:
        return source, None
    order = _shuffled(len(source), seed, HELD_OUT)
    return _Chosen(source, np.sort(order[count:])), _Chosen(source, np.sort(order[:count]))


class Drawn(Generic[Made]):
    """What `make` returns of the samples at `draws` positions of a mixture, as a dataset for torch's DataLoader.

    If a sample is rejected, when it is read or by `make`, the log gets it, and the same data set's next sample takes its
    place. Raises ConfigError if no sample of a data set is left.
    """

    def __init__(self, mixture: Mixture, draws: int, make: Callable[[Sample], Made], log: RejectedLog) -> None:
        self.mixture, self.draws, self.make, self.log = mixture, draws, make, log

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, position: int) -> Made:
        if not 0 <= position < self.draws:
            raise IndexError(position)
        number, _ = self.mixture.place(position)
        one = self.mixture.sets[number]
        for later in range(2 * len(one.source)):  # each sample once, whatever the position in its epoch
            _, index = self.mixture.place(position, later)
            where = ""
            try:
                sample = one.source.sample(index)
                where = sample.where
                return self.make(sample)
            except SampleError as error:
                self.log.add(one.name, error.at(where))
            except PictureError as error:
                reason = split_advice(str(error))[0]
                self.log.add(one.name, SampleError("a picture cannot be opened", reason, where))
        counted = ", ".join(f"{reason} ({count})" for reason, count in self.log.counts().items())
        raise ConfigError(
            f"data.{one.name}: no sample can be trained on: {counted}. Try: correct the data, which `vita data check` explains"
        )
