"""Put samples of similar length into a batch, without opening a picture."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vita_core.training.data.mixing import Drawn
from vita_core.training.data.samples import Sample, SampleError

__all__ = ["Grouped"]

Made = TypeVar("Made")
BATCHES = 32
"""Among how many batches the samples are exchanged."""


class Grouped(Generic[Made]):
    """The samples of `drawn`, so that those of a batch have a similar length.

    Among 32 batches, the samples are sorted by their number of pictures and videos and then by the length of their text. The
    batches keep a random order. The order depends on the seed and the position only, as that of `drawn`.
    """

    def __init__(self, drawn: Drawn[Made], batch: int, seed: int) -> None:
        self.drawn, self.batch, self.seed = drawn, batch, seed
        self.kept: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, position: int) -> Made:
        if not 0 <= position < len(self):
            raise IndexError(position)
        window, within = divmod(position, BATCHES * self.batch)
        kept, order = self.kept
        if kept != window:
            order = self._order(window)
            self.kept = (window, order)
        return self.drawn[int(order[within])]

    def _order(self, window: int) -> NDArray[np.int64]:
        """Return the positions of a window in the order in which they are seen."""
        first = window * BATCHES * self.batch
        last = min(first + BATCHES * self.batch, len(self))
        lengths = [self._length(position) for position in range(first, last)]
        places = sorted(range(len(lengths)), key=lambda place: lengths[place])
        batches = [places[at : at + self.batch] for at in range(0, len(places), self.batch)]
        raw = np.random.PCG64(np.random.SeedSequence([self.seed & (2**64 - 1), window])).random_raw(len(batches))
        mixed = [place for at in np.argsort(np.atleast_1d(raw), kind="stable") for place in batches[at]]
        return first + np.asarray(mixed, np.int64)

    def _length(self, position: int) -> tuple[int, int]:
        """Return the number of pictures and videos of a sample, and the characters of its text. A bad sample has none."""
        mixture = self.drawn.mixture
        number, index = mixture.place(position)
        try:
            sample: Sample = mixture.sets[number].source.sample(index)
        except SampleError:
            return 0, 0
        text = sum(len(turn.question or "") + len(turn.answer) for turn in sample.turns)
        return len(sample.pictures) + len(sample.videos), text
