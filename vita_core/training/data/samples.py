"""What a data set yields: samples of pictures, videos and turns of a conversation. Nothing is decoded here."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from vita_core.errors import VitaError
from vita_core.language.conversations import IMAGE

__all__ = [
    "VIDEO",
    "PictureRef",
    "Sample",
    "SampleError",
    "Source",
    "Turn",
    "UnansweredError",
    "check_marks",
    "located",
]

VIDEO = "<video>"
"""The mark of a video in a question."""


class SampleError(VitaError):
    """A sample that cannot be trained on. `reason` is one of few short sentences, `detail` the value; `where` its place."""

    def __init__(self, reason: str, detail: str = "", where: str = "") -> None:
        self.reason, self.detail, self.where = reason, detail, where
        place, value = f"{where}: " if where else "", f": {detail}" if detail else ""
        super().__init__(f"{place}{reason}{value}. Try: correct this sample, or remove it")

    def at(self, where: str) -> SampleError:
        """Return the same rejection with its place, unless it has one."""
        return self if self.where else SampleError(self.reason, self.detail, where)

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str, str]]:
        return SampleError, (self.reason, self.detail, self.where)  # it may come from the process of a data loader


class UnansweredError(SampleError):
    """A sample with nothing to train on: it has no turn. `sample` is what it has, such as pictures and a label."""

    def __init__(self, detail: str, sample: Sample) -> None:
        super().__init__("no answer", detail, sample.where)
        self.sample = sample


@dataclass(frozen=True)
class PictureRef:
    """A picture or video that is not read yet: a file `path`, `size` bytes of it from `offset`, or the bytes `data`."""

    name: str
    path: Path | None = None
    offset: int = 0
    size: int | None = None
    data: bytes | None = None

    @property
    def whole(self) -> Path | None:
        """The path if the picture is a file of its own, else None."""
        return self.path if self.size is None else None

    def exists(self) -> bool:
        """Return whether the bytes or the file are there. The file is not read."""
        try:
            return self.data is not None or (self.path is not None and self.path.is_file())
        except OSError:  # a name that is too long, a folder that may not be read
            return False

    def opened(self) -> BinaryIO:
        """Return the bytes as an open file. The caller closes it. Raises OSError."""
        if self.data is not None:
            return io.BytesIO(self.data)
        assert self.path is not None
        if self.size is None:
            return self.path.open("rb")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


@dataclass(frozen=True)
class Turn:
    """A question and its answer. A caption has no question (None): it answers the prompt's own."""

    question: str | None
    answer: str


@dataclass(frozen=True)
class Sample:
    """Pictures, videos and the turns about them. `where` is the place in the data set, `names` other accepted answers.

    A question may contain ``<image>`` and ``<video>`` where its pictures and videos stand, in order. Pictures without a mark
    come first in the first question. `system` is the sample's own system text, which goes before that of the prompt. `label`
    is the class that the row states, of which nothing is trained.
    """

    pictures: tuple[PictureRef, ...]
    turns: tuple[Turn, ...]
    names: tuple[str, ...] = ()
    where: str = ""
    videos: tuple[PictureRef, ...] = ()
    system: str | None = None
    label: str | None = None

    @property
    def image(self) -> Path:
        """The file of the only picture. Raises SampleError if there is another number of pictures, or no such file."""
        if len(self.pictures) != 1 or self.pictures[0].whole is None:
            raise SampleError("not one picture in a file of its own", f"{len(self.pictures)} pictures", self.where)
        return self.pictures[0].whole

    @property
    def caption(self) -> str:
        """The first answer."""
        return self.turns[0].answer


class Source(Protocol):
    """The samples of a data set, each of which is read when it is asked for.

    `blocks` are the numbers of samples that are best read together, in order: those of one shard, or of one group of rows.
    """

    @property
    def blocks(self) -> Sequence[int]:
        """The number of samples of each block. Their sum is the length."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """Return one sample. Raises SampleError, with its place, if it cannot be trained on."""


def check_marks(questions: Sequence[str], answers: Sequence[str], pictures: int, videos: int) -> None:
    """Raise SampleError if the questions have more marks than there are pictures or videos, or if an answer has a mark."""
    for mark, what, count in ((IMAGE, "pictures", pictures), (VIDEO, "videos", videos)):
        written = sum(question.count(mark) for question in questions)
        if written > count:
            raise SampleError(f"more {mark} than {what}", f"{written} of {count}")
        if any(mark in answer for answer in answers):
            raise SampleError(f"{mark} in an answer")


def located(starts: Sequence[int], index: int) -> tuple[int, int]:
    """Return the number of the block that holds a sample, and its place in it. `starts` are the blocks' first samples."""
    number = bisect_right(starts, index) - 1
    return number, index - starts[number]
