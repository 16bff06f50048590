"""Run the trainings of a comparison, each an ordinary one in a directory of its own, and score what they made."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vita_core.benchmarking.running import Scores, benchmark_scores, task_files
from vita_core.comparing.dividing import Divided
from vita_core.comparing.memory import peak_bytes, reset_peak
from vita_core.comparing.planned import Planned
from vita_core.comparing.repeating import readable
from vita_core.comparing.scoring import Scorer
from vita_core.errors import ConfigError, VitaError
from vita_core.masking import masked
from vita_core.planning.resolution import Resolved
from vita_core.training.data import read_samples
from vita_core.training.reporting import DivergedError
from vita_core.training.running import run_stages
from vita_core.training.train import train
from vita_core.untrusted.jsonfiles import decode, read_json
from vita_core.untrusted.limits import RECORD
from vita_core.weights.files import write_text

__all__ = ["COMPARED", "Finished", "Run", "Runner", "compared", "forget_unfinished", "rate_overrides", "train_run"]

COMPARED = "compared.json"
DONE = "run.json"
"""The last file of a finished run: its time and memory, and with a validation its loss."""


@dataclass(frozen=True)
class Run:
    """One training of a comparison: its config, learning rate (None: the config's own), seed and directory."""

    planned: Planned
    rate: float | None
    seed: int
    folder: Path


@dataclass(frozen=True)
class Finished:
    """What a run gave: the rows of its test pictures, and its record."""

    run: Run
    rows: list[dict[str, Any]]
    record: dict[str, Any]


class Runner:
    """Trains and scores the runs in ``OUT/runs``. A finished run is read, a run that was interrupted goes on.

    `failed` gets, by the name of its config, why a run failed; the other runs of that config are then left out.
    """

    def __init__(self, out: Path, divided: Divided) -> None:
        self.out, self.divided = out, divided
        self.failed: dict[str, str] = {}

    def run(self, planned: Planned, rate: float | None, seed: int) -> Run:
        """Return a run with its directory."""
        label = "own" if rate is None else f"{rate:g}"
        return Run(planned, rate, seed, self.out / "runs" / planned.name / label / f"seed-{seed}")

    def validated(self, run: Run) -> float | None:
        """Train, and return the validation loss, or None if it is not a number, or if an earlier run of its config failed."""
        done: dict[str, Any] | None = self._guarded(run, lambda: self._tried(run))
        return None if done is None else done["validation_loss"]

    def _tried(self, run: Run) -> dict[str, Any]:
        try:
            return self._trained(run)
        except DivergedError as error:  # another rate may do
            tqdm.write(f"{run.planned.name}, {_described(run)}: {error}", file=sys.stderr)
            return {"validation_loss": None}

    def tested(self, run: Run) -> Finished | None:
        """Train, and return the scores on the test pictures, or None if the run or an earlier one of its config failed."""
        found: Finished | None = self._guarded(run, lambda: self._tested(run))
        return found

    def benchmarked(self, run: Run, tasks: Sequence[str]) -> Scores | None:
        """Return the scores of a trained run on tasks of lmms-eval, or None if it or an earlier run of its config failed."""
        found: Scores | None = self._guarded(run, lambda: self._benchmarked(run, tasks))
        return found

    def _guarded(self, run: Run, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, or None. An error is kept for the report: one config must not lose the others."""
        if run.planned.name in self.failed:
            return None
        try:
            done = work()
            (run.folder / "error.txt").unlink(missing_ok=True)  # of an earlier call
            return done
        except Exception as error:  # any error of a plugin, a library or the machine
            found = str(error) if isinstance(error, VitaError) else f"{type(error).__name__}: {error}"
            self.failed[run.planned.name] = readable(found)
            write_text(run.folder / "error.txt", masked(traceback.format_exc()))
            tqdm.write(f"{run.planned.name} failed, seed {run.seed}: {masked(found)}", file=sys.stderr)
            return None
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _trained(self, run: Run) -> dict[str, Any]:
        """Train, score on the validation pictures, and return the record. A finished run is not run again."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = read_json(run.folder / DONE, RECORD)
            return found
        tqdm.write(f"{run.planned.name}: {_described(run)}", file=sys.stderr)
        resumed = (run.folder / "work").exists()
        reset_peak()
        start = time.monotonic()
        train_run(run, self.out)
        seconds, peak = time.monotonic() - start, peak_bytes()
        record = {
            "validation_loss": None if run.rate is None else self._validation_loss(run),
            "seconds": None if resumed else round(seconds, 1),  # of a resumed run only the last part would be measured
            "peak_bytes": peak,
        }
        write_text(run.folder / DONE, json.dumps(record))
        return record

    def _validation_loss(self, run: Run) -> float:
        scorer = self._scorer(run)
        losses = scorer.losses(read_samples(self.out / "data" / "validation.jsonl"))
        scorer.close()
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            raise DivergedError(f"the validation loss is not a number: {mean}. Try: a lower `learning_rate`")
        return mean

    def _tested(self, run: Run) -> Finished:
        file, record = run.folder / "test.jsonl", self._trained(run)
        if not file.is_file():
            scorer = self._scorer(run)
            rows = scorer.rows(self.out / "data" / "test.jsonl", self.divided.test_groups)
            scorer.close()
            if not all(math.isfinite(row["loss"]) for row in rows):
                raise DivergedError("the loss of a test picture is not a number. Try: a lower `learning_rate`")
            write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: an answer may contain U+2028
        return Finished(run, [decode(line, RECORD) for line in lines if line], record)

    def _benchmarked(self, run: Run, tasks: Sequence[str]) -> Scores:
        file, files = run.folder / "lmms_eval.json", task_files(tasks)
        with suppress(OSError, ValueError):
            known = read_json(file, RECORD)
            if known["tasks"] == [*tasks] and known.get("files") == files:
                scores: Scores = known["scores"]
                return scores
        tqdm.write(f"{run.planned.name}: {', '.join(tasks)}, {_described(run)}", file=sys.stderr)
        device = run.planned.resolved.config.device
        scores = benchmark_scores(run.folder, tasks, run.folder / "lmms_eval", device=device)
        write_text(file, json.dumps({"tasks": [*tasks], "files": files, "scores": scores}))
        return scores

    def _scorer(self, run: Run) -> Scorer:
        return Scorer(run.folder, run.planned.resolved, self.out / "cache")


def train_run(run: Run, out: Path, overrides: Sequence[str] = ()) -> None:
    """Train a run on the training split in ``out/data``, with the features in ``out/cache``, or go on with it."""
    data = out.absolute() / "data" / "train.jsonl"
    config = run.planned.resolved.config.training
    given = [*overrides, f"training.seed={run.seed}", *rate_overrides(run.planned.resolved, run.rate)]
    if config.stages is None:
        resolved = run.planned.with_overrides([*given, "training.held_out=0"])
        train(resolved, [data], run.folder, features=out / "cache" / _tower_key(resolved))
        return
    found = {"train": {"path": str(data), "pictures": data.anchor}}
    given += [
        f"data={json.dumps(found)}",
        *(f"training.stages.{place}.data=train" for place in range(len(config.stages))),
    ]
    if config.cache is not False:  # other runs see the pictures too, so that all are kept
        given.append(f"training.cache.path={json.dumps(str(out.absolute() / 'cache'))}")
    run_stages(run.planned.with_overrides(given), run.folder, strict=True)


def forget_unfinished(out: Path) -> None:
    """Remove the runs in `out` that are not finished, which state where their pictures were. They begin again."""
    for folder in out.glob("runs/*/*/seed-*"):
        if not (folder / DONE).is_file():
            shutil.rmtree(folder)


def _described(run: Run) -> str:
    return f"seed {run.seed}" if run.rate is None else f"learning rate {run.rate:g}, seed {run.seed}"


def _tower_key(resolved: Resolved) -> str:
    """Return what tells the features of a training without stages from those of other towers and pictures."""
    config = resolved.config
    told = config.tower.model_dump_json() + config.images.model_dump_json() + str(config.training.variants)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def rate_overrides(resolved: Resolved, rate: float | None) -> list[str]:
    """Return the overrides for a learning rate. Raises ConfigError for several stages, which have one each."""
    stages = resolved.config.training.stages
    if rate is None:
        return []
    if stages is not None and len(stages) > 1:
        raise ConfigError(
            f"--tune: learning_rate is that of one stage, but the config has {len(stages)}. "
            "Try: leave it out, or `vita sweep CONFIG --over training.stages.0.learning_rate=RATE --data DATA --out DIR`"
        )
    return [f"training.learning_rate={rate!r}" if stages is None else f"training.stages.0.learning_rate={rate!r}"]


def compared(out: Path, data: str, planned: Sequence[Planned]) -> str:
    """Return the record of what is compared in `out`, data with the hash `data`, for the file `COMPARED`.

    Raises ConfigError if the runs there are of other data or of other configs.
    Configs and seeds may be added.
    """
    if out.is_file():
        raise ConfigError(f"--out: {out} is a file. Try: a directory for --out")
    record = out / COMPARED
    stated = {one.name: one.resolved.config.model_dump_json(exclude_defaults=True) for one in planned}
    configs = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in stated.items()}
    known: Mapping[str, Any] = {"data": data, "configs": {}}
    if record.is_file():
        known = read_json(record, RECORD)
    elif out.is_dir() and (out / "runs").exists():
        raise ConfigError(f"--out: {out} contains runs that no comparison made. Try: another directory for --out")
    other = [name for name, digest in configs.items() if known["configs"].get(name, digest) != digest]
    if known["data"] != data or other:
        what = f"another config of the name {other[0]!r}, or its tokens or steps" if other else "other data"
        raise ConfigError(f"--out: {out} contains a comparison of {what}. Try: another directory for --out")
    return json.dumps({"data": data, "configs": {**known["configs"], **configs}})
