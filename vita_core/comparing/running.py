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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vita_core.benchmarking.running import Scores, benchmark_scores, task_files
from vita_core.comparing.dividing import Divided
from vita_core.comparing.memory import peak_bytes, reset_peak
from vita_core.comparing.planned import Planned
from vita_core.comparing.records import OPTIONAL, read_known, read_rows
from vita_core.comparing.repeating import readable
from vita_core.comparing.scoring import Scorer
from vita_core.errors import ConfigError, VitaError
from vita_core.masking import masked
from vita_core.planning.resolution import Resolved
from vita_core.training.data import read_samples
from vita_core.training.reporting import DivergedError
from vita_core.training.running import run_stages
from vita_core.training.sets import stamp
from vita_core.training.train import train
from vita_core.weights.files import sha256, write_text

__all__ = ["Finished", "Run", "Runner", "rate_overrides", "train_run"]

DONE, BEGUN = "run.json", "begun.json"
"""The last file of a finished run: its time and memory, and with a validation its loss; and the first one of any run."""
RECORD = {"validation_loss": OPTIONAL, "seconds": OPTIONAL, "peak_bytes": OPTIONAL}


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
        if (found := read_known(run.folder / DONE, RECORD)) is not None:
            return found
        tqdm.write(f"{run.planned.name}: {_described(run)}", file=sys.stderr)
        resumed = self._resumed(run)
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

    def _resumed(self, run: Run) -> bool:
        """Return whether a run goes on. One that cannot is removed: its data is at another place or was written again."""
        depends, work = _depends(run, self.out), run.folder / "work"
        begun = read_known(run.folder / BEGUN, {"depends": str})
        record = read_known(work / "run.json", {}) if (work / "run.json").exists() else {}
        if begun is not None and begun["depends"] == depends and record is not None:
            return work.exists()
        if run.folder.exists():
            told = "it begins again, since its data was moved or written again, or its record is damaged"
            tqdm.write(f"{run.planned.name}: {told}", file=sys.stderr)
            shutil.rmtree(run.folder)
        write_text(run.folder / BEGUN, json.dumps({"depends": depends}))
        return False

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
        rows = read_rows(file, self.divided.test_groups)
        if rows is None:
            scorer = self._scorer(run)
            rows = scorer.rows(self.out / "data" / "test.jsonl", self.divided.test_groups)
            scorer.close()
            if not all(math.isfinite(row["loss"]) for row in rows):
                raise DivergedError("the loss of a test picture is not a number. Try: a lower `learning_rate`")
            write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return Finished(run, rows, record)

    def _benchmarked(self, run: Run, tasks: Sequence[str]) -> Scores:
        file, files = run.folder / "lmms_eval.json", task_files(tasks)
        known = read_known(file, {"tasks": list, "scores": dict})
        if known is not None and known["tasks"] == [*tasks] and known.get("files") == files:
            kept: Scores = known["scores"]
            return kept
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


def _depends(run: Run, out: Path) -> str:
    """Return what a run that was interrupted must find again: its data, and with stages the place and the time of that file."""
    data = out.absolute() / "data" / "train.jsonl"
    return sha256(data) if run.planned.resolved.config.training.stages is None else f"{data} {stamp(str(data))}"


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
