"""Read a whole data set before a training: count what is in it, and what cannot be trained on."""

from __future__ import annotations

import hashlib
import io
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL import Image

from vita_core.errors import PictureError, split_advice
from vita_core.pixels.images import MAX_PIXELS, open_picture
from vita_core.pixels.prefetching import prefetched
from vita_core.training.counting import TokenCounter
from vita_core.training.data.samples import PictureRef, Sample, SampleError, Source

__all__ = ["Report", "check_source"]

BARS = 10
"""The number of bars of the histogram."""
BATCH = 64
Size = tuple[int, int]


@dataclass
class Report:
    """What `check_source` found.

    `rejected` counts the samples that cannot be trained on by reason, and `rows` has each with its place. `duplicates` are
    samples with the same pictures and text as an earlier one, `repeated_pictures` pictures with the bytes of an earlier one.
    `sizes` are the smallest, median and largest picture by area, (width, height). `tokens` are the least, median and most
    tokens of a sample without videos, and the `histogram` has (up to, samples) for each bar; both are empty without a
    tokenizer. `trained_tokens` have a label. `rate` is in samples a second, read and decoded.
    """

    samples: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0
    pictures: int = 0
    videos: int = 0
    text_only: int = 0
    duplicates: int = 0
    repeated_pictures: int = 0
    sizes: list[Size] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    trained_tokens: int = 0
    histogram: list[tuple[int, int]] = field(default_factory=list)
    max_length: int | None = None
    rate: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``vita data check --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class _Read:
    """A sample that was read, with the size and a hash of each picture; or why it was not."""

    sample: Sample | None
    error: SampleError | None = None
    sizes: tuple[Size, ...] = ()
    hashes: tuple[bytes, ...] = ()


def check_source(
    source: Source,
    *,
    counter: TokenCounter | None = None,
    max_pixels: int | None = None,
    limit: int | None = None,
    tick: Callable[[int], object] = lambda count: None,
) -> Report:
    """Read the samples of a source, or the first `limit`, and decode every picture. `tick` gets the number of each batch.

    With a `counter`, tokens are counted, and samples that are too long are rejected.
    """
    count = len(source) if limit is None else min(limit, len(source))
    report = Report(samples=count, max_length=None if counter is None else counter.max_length)
    lengths: list[int] = []
    areas: list[Size] = []
    seen: set[bytes] = set()
    start = time.monotonic()
    for read in _all(source, count, max_pixels or MAX_PIXELS, tick):
        try:
            if read.sample is None:
                assert read.error is not None
                raise read.error
            counted = None if counter is None else counter.count(read.sample, read.sizes)
        except SampleError as error:
            report.rows.append({"where": error.where, "reason": error.reason, "detail": error.detail})
            continue
        _add(report, read, seen)
        areas += read.sizes
        if counted is not None:
            report.trained_tokens += counted.trained
            lengths += [] if read.sample.videos else [counted.length]
    report.rate = round(count / max(time.monotonic() - start, 1e-9), 1)
    reasons = Counter(row["reason"] for row in report.rows)
    report.rejected = dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
    areas.sort(key=lambda size: size[0] * size[1])
    report.sizes = [areas[0], areas[len(areas) // 2], areas[-1]] if areas else []
    report.tokens = [min(lengths), round(statistics.median(lengths)), max(lengths)] if lengths else []
    report.histogram = _histogram(lengths)
    return report


def _all(source: Source, count: int, max_pixels: int, tick: Callable[[int], object]) -> Iterator[_Read]:
    def load(index: int) -> _Read:
        return _read(source, index, max_pixels)

    with prefetched(range(count), load, batch=BATCH) as batches:
        for batch in batches:
            yield from batch
            tick(len(batch))


def _read(source: Source, index: int, max_pixels: int) -> _Read:
    """Read a sample and its pictures."""
    where = ""
    try:
        sample = source.sample(index)
        where = sample.where
        found = [_picture(ref, max_pixels) for ref in sample.pictures]
        missing = next((ref for ref in sample.videos if not ref.exists()), None)
        if missing is not None:
            raise SampleError("a video is missing", missing.name)
    except SampleError as error:
        return _Read(None, error.at(where))
    return _Read(sample, None, tuple(size for size, _ in found), tuple(digest for _, digest in found))


def _picture(ref: PictureRef, max_pixels: int) -> tuple[Size, bytes]:
    """Return the size of a picture, upright, and a hash of its bytes."""
    if not ref.exists():
        raise SampleError("a picture is missing", ref.name)
    try:
        with ref.opened() as file:
            content = file.read()
        picture: Image.Image = open_picture(io.BytesIO(content), max_pixels=max_pixels, name=ref.name)
    except (PictureError, OSError) as error:
        raise SampleError("a picture cannot be opened", split_advice(str(error))[0]) from error
    return picture.size, hashlib.blake2b(content, digest_size=16).digest()


def _add(report: Report, read: _Read, seen: set[bytes]) -> None:
    """Count a sample, and whether it was seen before. `seen` keeps 16 bytes of each picture and of each sample."""
    sample = read.sample
    assert sample is not None
    report.turns += len(sample.turns)
    report.pictures += len(sample.pictures)
    report.videos += len(sample.videos)
    report.text_only += not sample.pictures and not sample.videos
    report.repeated_pictures += sum(digest in seen for digest in read.hashes)
    seen.update(read.hashes)
    text = repr((sample.turns, sample.system, [video.name for video in sample.videos])).encode("utf-8", "surrogatepass")
    whole = hashlib.blake2b(b"".join(read.hashes) + text, digest_size=16, person=b"sample").digest()
    report.duplicates += whole in seen
    seen.add(whole)


def _histogram(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return (up to, how many) for bars of equal width from the least to the most."""
    if not lengths:
        return []
    least, most = min(lengths), max(lengths)
    width = max(1, -(-(most - least + 1) // BARS))
    counts = Counter((length - least) // width for length in lengths)
    return [(least + (bar + 1) * width - 1, counts[bar]) for bar in range((most - least) // width + 1)]
