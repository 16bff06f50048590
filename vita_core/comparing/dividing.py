"""The data of a comparison: read once, divided into three splits, and written where every run finds it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vita_core.comparing.records import Kinds, read_known
from vita_core.errors import ConfigError
from vita_core.probing.splits import divide, near_duplicates
from vita_core.training.data import PictureRef, Sample, answered
from vita_core.training.data.folders import FolderSource
from vita_core.untrusted.jsonfiles import decode
from vita_core.weights.files import sha256, write_text, write_whole

__all__ = ["SPLITS", "Data", "Divided", "divided", "read_data"]

SPLITS = ("train", "validation", "test")
KNOWN: Kinds = {
    **dict.fromkeys(("train", "validation", "test", "groups"), int),
    **{"sha256": str, "test_groups": list, "splits": dict},
}
"""The keys of ``data.json``. `splits` are the SHA-256 of the files of the splits."""
SEED = 0
"""The splits do not depend on the seeds of the trainings: every comparison of the same data has the same ones."""


@dataclass(frozen=True)
class Divided:
    """A divided data set: the number of samples in each split and of groups in all, and the groups of the test pictures.

    `sha256` is that of the pictures and their texts in order.
    """

    name: str
    train: int
    validation: int
    test: int
    groups: int
    test_groups: tuple[int, ...]
    sha256: str

    @property
    def samples(self) -> int:
        """All samples."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Data:
    """The samples of a data set of this name, of one picture each, and the SHA-256 of their pictures and texts in order.

    `left_out` is how many pictures of a folder have no caption.
    """

    name: str
    samples: Sequence[Sample]
    sha256: str
    left_out: int = 0


def read_data(path: Path) -> Data:
    """Read a data set whose samples have one picture and at least one answer each.

    Raises ConfigError, and SampleError for a sample that cannot be used.
    """
    source = answered(path)
    samples = [source.sample(index) for index in range(len(source))]
    left_out = source.left_out if isinstance(source, FolderSource) else 0
    return Data(path.absolute().stem, samples, _digest(samples), left_out)


def divided(data: Data, folder: Path) -> Divided:
    """Divide a data set, and write each split to ``folder/SPLIT.jsonl``. Pictures inside an archive are written beside it.

    If the same data was divided there before, its files stay, unless they were changed or its pictures were moved: the splits of
    equal data are equal. Raises ConfigError for too few pictures.
    """
    samples, digest = data.samples, data.sha256
    record = folder / "data.json"
    known = read_known(record, KNOWN)
    same = known is not None and known["sha256"] == digest and known["splits"] == _digests(folder)
    if known is not None and same and not _moved(data, folder):
        numbers = {key: known[key] for key in KNOWN if key != "splits"}
        return Divided(**{**numbers, "name": data.name, "test_groups": tuple(known["test_groups"])})
    pictures = [sample.pictures[0] for sample in samples]
    splits = divide(near_duplicates(pictures), seed=SEED, labels=_labels(samples))
    for name in SPLITS:
        if len({splits.groups[place] for place in getattr(splits, name)}) < 2:
            others = f", and {data.left_out:,} more have no caption" if data.left_out else ""
            raise ConfigError(
                f"--data: {len(samples)} pictures in {len(set(splits.groups))} groups of near-duplicates are too few for three "
                f"splits: there would be no two different ones in {name}{others}. Try: at least 20 different pictures"
            )
    for name in SPLITS:
        rows = (_row(samples[place], place, folder) for place in getattr(splits, name))
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    found = Divided(
        name=data.name,
        train=len(splits.train),
        validation=len(splits.validation),
        test=len(splits.test),
        groups=len(set(splits.groups)),
        test_groups=tuple(splits.groups[place] for place in splits.test),
        sha256=digest,
    )
    write_text(record, json.dumps({**asdict(found), "splits": _digests(folder)}))
    return found


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / f"{name}.jsonl") for name in SPLITS if (folder / f"{name}.jsonl").is_file()}


def _moved(data: Data, folder: Path) -> bool:
    """Return whether the splits in a folder name pictures at other places than where they are."""
    texts = [(folder / f"{name}.jsonl").read_text(encoding="utf-8") for name in SPLITS]
    stated = {decode(line)["image"] for text in texts for line in text.split("\n") if line}
    now = {str(_place(sample.pictures[0], at, folder)) for at, sample in enumerate(data.samples)}
    return stated != now or not all(Path(name).is_file() for name in now)


def _digest(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the pictures' bytes and the texts of samples. Raises ConfigError for one that cannot be used."""
    digest = hashlib.sha256()
    for sample in samples:
        if len(sample.pictures) != 1 or sample.videos:
            found = f"{len(sample.pictures)} pictures and {len(sample.videos)} videos"
            raise ConfigError(
                f"--data: {sample.where}: a comparison takes samples of one picture each, not {found}. "
                "Try: remove the others from the data set"
            )
        ref = sample.pictures[0]
        if not ref.exists():
            raise ConfigError(f"--data: {sample.where}: a picture is missing: {ref.name}. Try: copy it there")
        with ref.opened() as file:
            digest.update(hashlib.sha256(file.read()).digest())
        told = [[[turn.question, turn.answer] for turn in sample.turns], list(sample.names), sample.system]
        digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def _labels(samples: Sequence[Sample]) -> list[str]:
    """Return the caption of each sample if it is that of several, else an empty text: equal captions are divided evenly."""
    counts = Counter(sample.caption for sample in samples)
    return [sample.caption if counts[sample.caption] > 1 else "" for sample in samples]


def _row(sample: Sample, place: int, folder: Path) -> dict[str, Any]:
    """Return a sample as a row of a JSONL. A caption stays one; turns with questions become ``conversations``."""
    row: dict[str, Any] = {"image": str(_file(sample.pictures[0], place, folder)), "names": list(sample.names)}
    if len(sample.turns) == 1 and sample.turns[0].question is None:
        return row | {"caption": sample.caption}
    return row | {"conversations": list(_messages(sample))}


def _messages(sample: Sample) -> Iterator[dict[str, str]]:
    if sample.system is not None:
        yield {"from": "system", "value": sample.system}
    for turn in sample.turns:
        yield {"from": "human", "value": turn.question or ""}
        yield {"from": "gpt", "value": turn.answer}


def _file(ref: PictureRef, place: int, folder: Path) -> Path:
    """Return the file of a picture. One inside an archive is written to a file of its own."""
    file = _place(ref, place, folder)
    if ref.whole is not None:
        return file
    with ref.opened() as opened:
        content = opened.read()
    write_whole(file, lambda path: path.write_bytes(content))
    return file


def _place(ref: PictureRef, place: int, folder: Path) -> Path:
    """Return where the file of a picture is, or where that of one inside an archive is written."""
    own = folder.absolute() / "pictures" / f"{place:06d}{Path(ref.name).suffix or '.png'}"
    return own if ref.whole is None else ref.whole.absolute()
