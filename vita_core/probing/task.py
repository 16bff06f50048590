"""The pictures that are probed: which labels have enough of them, and how they are divided."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vita_core.errors import ConfigError
from vita_core.planning.resolution import Resolved
from vita_core.probing.pictures import Labelled, read_labelled
from vita_core.probing.scores import NEIGHBOURS, interval
from vita_core.probing.splits import Splits, divide, grouped
from vita_core.training.data.folders import file_of_rows

__all__ = ["FEWEST", "Task", "read_task"]

SHARE = 0.15
"""The share of the pictures for validation, and that for the test."""
FEWEST = math.ceil(1 / SHARE)
"""The fewest different pictures of a label: with fewer, none may be in the test."""
RETRIEVED = 64
"""The most pictures whose patches are retrieved."""


@dataclass(frozen=True)
class Task:
    """The pictures that are probed, how they are divided, and the places of those whose patches are retrieved."""

    data: Labelled
    splits: Splits
    retrieved: tuple[int, ...]
    seed: int

    @property
    def labels(self) -> list[str]:
        """The label of each picture."""
        return [item.label for item in self.data.items]

    def interval(self, values: Sequence[float], places: Sequence[int], least: float = 0.0) -> tuple[float, float]:
        """Return the 95% interval of the mean of values (`least` to 1) of the pictures at `places`, by groups."""
        groups = [self.splits.groups[place] for place in places]
        return interval(values, groups, seed=self.seed, bounds=(least, 1.0))


def read_task(
    path: Path, labels: str | None, seed: int, limit: int | None, configs: Mapping[str, Resolved]
) -> tuple[Task, dict[str, Any]]:
    """Read and divide the data set. Raises ConfigError if there are too few labels or pictures."""
    allowed = [resolved.config.images.max_pixels for resolved in configs.values()]
    stated = [pixels for pixels in allowed if pixels is not None]
    data = read_labelled(path, origin=labels, limit=limit, seed=seed, max_pixels=min(stated, default=None))
    groups = grouped([item.hash for item in data.items])
    different = Counter(
        label for label, _ in sorted({(i.label, group) for i, group in zip(data.items, groups, strict=True)})
    )
    kept = {label for label, count in different.items() if count >= FEWEST}
    if len(kept) < 2:
        _refuse(path, data.origin, different)
    places = [place for place, item in enumerate(data.items) if item.label in kept]
    left_out = {"labels": len(different) - len(kept), "pictures": len(data.items) - len(places)}
    data = replace(data, items=[data.items[place] for place in places])
    names = [item.label for item in data.items]
    splits = divide([groups[place] for place in places], seed=seed, validation=SHARE, test=SHARE, labels=names)
    if len(splits.train) < NEIGHBOURS:
        raise ConfigError(
            f"--data: {len(splits.train)} of {len(names)} pictures are for training, but {NEIGHBOURS} nearest neighbours are "
            f"asked. Try: at least {math.ceil(NEIGHBOURS / (1 - 2 * SHARE)) + 1} pictures"
        )
    drawn = random.Random(seed).sample(range(len(names)), min(RETRIEVED, len(names)))
    common = Counter(names[place] for place in splits.train).most_common(1)[0][0]
    about = {
        "name": path.name,
        "pictures": len(names),
        "labels": len(kept),
        "origin": data.origin,
        "rejected": data.rejected,
        "rejected_rows": data.rows,
        "left_out": left_out,
        "groups": len(set(splits.groups)),
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
        "most_frequent": sum(names[place] == common for place in splits.test) / len(splits.test),
    }
    return Task(data, splits, tuple(sorted(drawn)), seed), about


def _refuse(path: Path, origin: str, different: Counter[str]) -> None:
    if len(different) == 1:
        (label,) = different
        rows = file_of_rows(path, "--data")
        raise ConfigError(
            f"--data: all pictures of {path} have one label ({origin}): {label!r}. Try: {f'{rows}, ' if rows else ''}"
            "pictures of at least two labels, or another `--labels`"
        )
    label, count = different.most_common(2)[-1]
    raise ConfigError(
        f"--data: too few pictures of a label ({origin}) in {path}: {label!r}, the second of {len(different)} labels, has "
        f"{count} that are not near-duplicates. Try: at least {FEWEST} of two labels"
    )
