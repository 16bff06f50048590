"""The record of a run: what it depends on, and its scores once it is finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vita_core.config.schema import Config
from vita_core.errors import ConfigError
from vita_core.training import processes
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.limits import RECORD
from vita_core.weights.files import write_text
from vita_core.weights.locks import alone

__all__ = ["Run", "stage_record"]

REPLACED = (
    *("config.yaml", "provenance.json", "projector.safetensors", "reduce-*.safetensors", "tower", "llm", "*-adapter"),
    *("held_out.jsonl", "metrics.jsonl", "rejected.jsonl"),
)
"""What a training writes to its directory in place of what is there."""


def stage_record(folder: Path) -> dict[str, Any]:
    """Return the scores of a finished stage, what it trained (`parts`), and what it froze because no feature depends on it.

    Raises ConfigError if the file in the stage's folder says something else.
    """
    file = folder / "scores.json"
    record = read_object(file, RECORD)
    kinds = {"scores": dict, "parts": list, "unused": list}
    if not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise ConfigError(
            f"{file}: not the record of a finished stage. Try: delete its directory, to train the stage again"
        )
    return record


class Run:
    """The record of a run in ``out/work/run.json``. `data` is a text that tells its data from other data."""

    def __init__(self, out: Path, config: Config, data: str) -> None:
        """Begin a run, or go on with it. Raises ConfigError if `out` contains something else, or another run."""
        self.out, self.file = out, out / "work" / "run.json"
        there = sorted(path.name for pattern in REPLACED for path in out.glob(pattern))
        if there and not self.file.is_file():
            raise ConfigError(
                f"--out: {out} contains {', '.join(there)}, which this training did not write and would replace. "
                "Try: another directory"
            )
        settings = config.model_dump_json(
            exclude={"training": {"keep", "cache", "report_to"}},
            exclude_defaults=True,  # a later version may have more keys
        )
        new: dict[str, Any] = {
            "key": hashlib.sha256((settings + data).encode()).hexdigest(),
            "processes": processes.count(),
        }
        self.record = read_object(self.file, RECORD) if self.file.is_file() else new
        if self.record.get("key") != new["key"]:
            raise ConfigError(
                f"--out: {out} contains a run with another config or other data. Try: another directory for --out"
            )
        if processes.first() and self.record is new:
            write_text(self.file, json.dumps(new))

    def finished(self, files: Sequence[str], stages: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return the scores of a finished run, whose `files` are there, of these stages or more, else None.

        Raises ConfigError if it is not finished and began with another number of processes.
        """
        scores: dict[str, Any] | None = self.record.get("finished")
        if scores is not None and set(stages) <= scores.keys() and all((self.out / name).exists() for name in files):
            processes.tell(f"{self.out}: this run is already finished, and its files stay as they are")
            return scores
        before = self.record.get("processes", 1)
        if before != processes.count():
            raise ConfigError(
                f"--out: {self.out} contains a run with another number of processes: {before}, now {processes.count()}. "
                f"Try: --nproc-per-node {before}, as before, or another directory for --out"
            )
        return None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the directory for this training until the end of the block. Raises VitaError if another one writes to it."""
        if not processes.first():
            yield
            return
        with alone(self.file.parent, "vita train"):
            yield

    def finish(self, scores: Mapping[str, Any]) -> None:
        """Record that the run is finished."""
        write_text(self.file, json.dumps({**self.record, "finished": scores}))
