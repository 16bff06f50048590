"""Read the pictures of a data set with their labels, and count those that cannot be used."""

from __future__ import annotations

import functools
import hashlib
import io
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vita_core.config.data import DataSetConfig
from vita_core.errors import ConfigError, PictureError, split_advice
from vita_core.pixels.images import MAX_PIXELS, open_picture
from vita_core.pixels.prefetching import prefetched
from vita_core.probing.splits import difference_hash
from vita_core.training.data import PictureRef, Sample, SampleError, Source, UnansweredError, open_source
from vita_core.training.data.folders import FolderSource, file_of_rows
from vita_core.training.evaluate import name_of

__all__ = ["LABELS", "Item", "Labelled", "read_labelled", "ref_of"]

LABELS = ("label", "folder", "caption")
"""Where a label comes from: the row's `label`, the folder that the picture is in, or what its caption names."""
BATCH = 64


@dataclass(frozen=True)
class Item:
    """A picture that can be opened: its number in the data set, the SHA-256 of its bytes, its difference hash, its label."""

    index: int
    digest: str
    hash: int
    label: str


@dataclass
class Labelled:
    """The pictures of a data set that have a label. `origin` is one of `LABELS`.

    `rejected` counts the samples that cannot be used by reason, and `rows` has the place and the reason of each.
    """

    source: Source
    origin: str
    items: list[Item]
    rejected: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    index: int
    digest: str
    hash: int
    where: str
    labels: dict[str, str]


def read_labelled(
    path: Path,
    *,
    origin: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    max_pixels: int | None = None,
) -> Labelled:
    """Open the pictures of a data set, or `limit` of them, drawn by `seed`, and find their labels.

    Without `origin`, labels are the rows' `label` if one has it; else the folders of a folder of pictures, if there are two
    or no caption; else what the captions name. Raises ConfigError if there is no label.
    """
    source = open_source(DataSetConfig(path=str(path)), absolute=True)
    count = len(source) if limit is None else min(limit, len(source))
    chosen = sorted(random.Random(seed).sample(range(len(source)), count))
    seen: list[_Seen] = []
    rows: list[dict[str, str]] = []
    load = functools.partial(_seen, source, max_pixels or MAX_PIXELS)
    bar = tqdm(total=len(chosen), desc="pictures", unit="picture", disable=None)
    with bar, prefetched(chosen, load, batch=BATCH) as batches:
        for batch in batches:
            for found in batch:
                if isinstance(found, _Seen):
                    seen.append(found)
                else:
                    rows.append({"where": found.where, "reason": found.reason, "detail": found.detail})
            bar.update(len(batch))
    chosen_origin = origin or _origin(source, seen)
    items = [
        Item(one.index, one.digest, one.hash, one.labels[chosen_origin]) for one in seen if chosen_origin in one.labels
    ]
    missing = [one for one in seen if chosen_origin not in one.labels]
    rows += [{"where": one.where, "reason": "no label", "detail": f"no {chosen_origin}"} for one in missing]
    if not items:
        _refuse(path, rows, chosen_origin)
    counts = Counter(row["reason"] for row in rows)
    rejected = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    return Labelled(source, chosen_origin, items, rejected, rows)


def _refuse(path: Path, rows: list[dict[str, str]], origin: str) -> None:
    reasons = Counter(row["reason"] for row in rows).most_common(1)
    first, beside = rows[0], file_of_rows(path, "--data")
    advice = f"{beside}, " if beside else ""
    raise ConfigError(
        f"--data: no picture with a label ({origin}) in {path}: {reasons[0][1]} of {len(rows)} samples: {reasons[0][0]}, such as "
        f"{first['where']}. Try: {advice}a folder for each label, a `label` in each row, or captions that name what is shown"
    )


def ref_of(source: Source, index: int) -> PictureRef:
    """Return the only picture of a sample, which needs no caption. Raises SampleError."""
    return _only(_sample(source, index))


def _sample(source: Source, index: int) -> Sample:
    try:
        return source.sample(index)
    except UnansweredError as error:
        return error.sample


def _only(sample: Sample) -> PictureRef:
    if len(sample.pictures) != 1 or sample.videos:
        told = f"{len(sample.pictures)} pictures, {len(sample.videos)} videos"
        raise SampleError("not one picture", told, sample.where)
    return sample.pictures[0]


def _seen(source: Source, max_pixels: int, index: int) -> _Seen | SampleError:
    """Read a sample and decode its picture; return what is kept of it, or why it cannot be used."""
    where = ""
    try:
        sample = _sample(source, index)
        where = sample.where
        ref = _only(sample)
        if not ref.exists():
            raise SampleError("a picture is missing", ref.name)
        with ref.opened() as file:
            content = file.read()
        shown = open_picture(io.BytesIO(content), max_pixels=max_pixels, name=ref.name)
    except SampleError as error:
        return error.at(where)
    except (PictureError, OSError) as error:
        return SampleError("a picture cannot be opened", split_advice(str(error))[0], where)
    return _Seen(index, hashlib.sha256(content).hexdigest(), difference_hash(shown), where, _labels(sample, ref))


def _labels(sample: Sample, ref: PictureRef) -> dict[str, str]:
    """Return each label that a sample has, by where it comes from. The name of a member of a tar follows a ``!``."""
    found = {
        "label": sample.label or "",
        "folder": PurePosixPath(ref.name.rpartition("!")[2]).parent.name,
        "caption": name_of(sample.caption, sample.names) if sample.turns else "",
    }
    return {origin: label for origin, label in found.items() if label}


def _origin(source: Source, seen: list[_Seen]) -> str:
    if any("label" in one.labels for one in seen):
        return "label"
    folders = {one.labels.get("folder") for one in seen}
    if isinstance(source, FolderSource) and len(folders) > 1:
        return "folder"
    return "caption" if any("caption" in one.labels for one in seen) else "folder"
