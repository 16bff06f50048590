"""The data sets of a training in stages: opened, with the held-out share of each kept apart."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vita_core.config.data import DataSetConfig
from vita_core.config.training import TrainingConfig
from vita_core.errors import ConfigError, nearest
from vita_core.training.data.folders import FolderSource
from vita_core.training.data.mixing import DataSet, parted
from vita_core.training.data.opening import expanded, open_source

__all__ = ["Sets", "described", "kept_sets", "open_sets", "refuse_licences", "replaced_paths", "stamp"]

Sets = Mapping[str, tuple[DataSet, DataSet | None]]
"""The data sets of a training by name: the samples to train on, and those that are held out for the score."""


def stamp(path: str) -> str:
    """Return what tells the data at a path from other data there: the names, sizes and times of its files."""
    found = expanded(Path(path)) or [Path(path)]
    files = [(file.name, file) for file in found if file.is_file()]
    files += [(str(file), file) for folder in found if folder.is_dir() for file in sorted(folder.rglob("*"))]
    told = [(name, file.stat()) for name, file in files if file.is_file()]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in told])


def refuse_licences(given: Sequence[str]) -> None:
    """Raise ConfigError for values of ``--licence``: with stages, the config states those of its data sets."""
    if given:
        raise ConfigError(
            f"--licence: with `training.stages`, a data set states its own: {given[0]!r}. "
            "Try: leave it out, and write `licence: TEXT` into the data set's section"
        )


def replaced_paths(data: Mapping[str, DataSetConfig], given: Sequence[str]) -> list[str]:
    """Return overrides of the config for the values of ``--data``: ``NAME=PATH``, or PATH if there is one data set.

    Raises ConfigError for an unknown name.
    """
    overrides = []
    for text in given:
        name, equals, path = text.partition("=")
        if not equals and len(data) == 1:
            name, path = next(iter(data)), text
        if name not in data:
            known = ", ".join(data) or "none, until the config has a section `data`"
            raise ConfigError(
                f"--data: no data set of this name: {name!r}.{nearest(name, list(data))} Try: NAME=PATH with one of {known}"
            )
        overrides.append(f"data.{name}.path={path}")
    return overrides


def open_sets(data: Mapping[str, DataSetConfig], seed: int) -> Sets:
    """Open the data sets of a config, and keep the held-out share of each apart. Raises ConfigError."""
    sets = {}
    for name, settings in data.items():
        source = open_source(settings, f"data.{name}")
        if isinstance(source, FolderSource):
            # a folder of captions that are all missing is refused before the training
            source.captioned(f"data.{name}.path")
        kept, held = parted(source, settings.held_out, seed)
        if not len(kept):
            raise ConfigError(
                f"data.{name}.held_out: {settings.held_out} of {len(held or ())} samples leaves none to train on. "
                "Try: a smaller share"
            )
        train = DataSet(name, kept, settings.weight)
        sets[name] = (train, None if held is None else DataSet(name, held))
    return sets


def kept_sets(training: TrainingConfig, sets: Sets) -> set[str]:
    """Return the data sets of whose pictures the cache keeps the tokens: those that are seen again, or all if it is configured.

    A picture is seen again in another epoch, or in another stage that leaves the tower frozen.
    """
    if training.cache != "auto":
        return {*sets}
    draws: Counter[str] = Counter()
    for stage in training.stages or ():
        names = [stage.data] if isinstance(stage.data, str) else stage.data or [*sets]
        shares = {name: sets[name][0].share for name in names}
        epochs = stage.epochs or 1.0
        if stage.steps is not None:
            epochs = stage.steps * stage.batch_size / sum(shares.values())
        if stage.train.tower == "frozen":
            draws.update({name: math.floor(epochs * share) for name, share in shares.items()})
    return {name for name, count in draws.items() if count > len(sets[name][0].source)}


def described(data: Mapping[str, DataSetConfig], sets: Sets) -> list[dict[str, Any]]:
    """Return what the provenance says of the data sets."""
    rows = []
    for name, (kept, held) in sets.items():
        counts = {"samples": len(kept.source), "held_out": 0 if held is None else len(held.source)}
        rows.append({"name": name, **counts, "licence": data[name].licence or "not stated"})
    return rows
