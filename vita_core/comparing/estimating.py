"""Measure a little of each config, to know how long a comparison takes. Nothing is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_core.comparing.comparison import checked
from vita_core.comparing.dividing import Divided, divided
from vita_core.comparing.planned import Asked, Options, Planned, stepped
from vita_core.comparing.running import Run, train_run
from vita_core.comparing.scoring import Scorer
from vita_core.comparing.towers import time_towers
from vita_core.interrupts import temporary_directory
from vita_core.training.data import read_samples
from vita_core.untrusted.jsonfiles import decode
from vita_core.weights.files import write_text

__all__ = ["Estimated", "estimated"]

STEPS = 2
"""The first step allocates the memory of the optimiser, and the second one is measured."""
SCORED = 2


@dataclass(frozen=True)
class Estimated:
    """What a config will take: so many `runs`, each with a step of `step_seconds`, and `seconds` in all.

    `encode_seconds` are those of one picture in the tower, `score_seconds` those of the loss and the answer of one picture.
    """

    name: str
    runs: int
    encode_seconds: float
    step_seconds: float
    score_seconds: float
    seconds: float


def estimated(asked: Sequence[Asked], data: Path, out: Path, options: Options) -> list[Estimated]:
    """Run two steps of each config, and score two pictures. Raises as `compare` does before it trains; `out` is not written."""
    planned, read, _ = checked(asked, data, out, options)
    with temporary_directory("vita-dry-run-") as scratch:
        found = divided(read, scratch / "data")
        return [_measured(one, found, options, scratch) for one in planned]


def _measured(one: Planned, found: Divided, options: Options, out: Path) -> Estimated:
    config = one.resolved.config.training
    batches = [config.batch_size] if config.stages is None else [stage.batch_size for stage in config.stages]
    _cut(out, "train", STEPS * max(batches))
    few = stepped(one.resolved.config, STEPS)
    if config.stages is None:
        few.append(f"training.warm_start_steps={min(STEPS, config.warm_start_steps)}")
    run = Run(one, None, options.seeds[0], out / "runs" / one.name)
    start = time.monotonic()
    train_run(run, out, few)
    fixed = time.monotonic() - start
    steps = _steps(one, found)
    times = _step_times(run.folder / "metrics.jsonl", {"warm-start": config.warm_start_steps, **steps})
    test = read_samples(_cut(out, "test", SCORED))
    encode = time_towers([one], test)[one.name]["median"] / 1000
    scorer = Scorer(run.folder, one.resolved, out / "cache")
    start = time.monotonic()
    scorer.rows(out / "data" / "test.cut.jsonl", range(SCORED))
    score = (time.monotonic() - start) / SCORED
    copies = 1 + (config.variants if config.stages is None else 0)
    tried, seeds = len(options.rates), len(options.seeds)
    runs = max(tried, 1) + seeds - 1
    pictures = found.train * copies + found.validation + found.test
    seconds = encode * pictures + runs * (fixed + times["all"])
    seconds += score * (tried * found.validation + seeds * found.test)
    last = times[next(reversed(steps))]
    return Estimated(one.name, runs, encode, last, score, seconds)


def _cut(out: Path, split: str, count: int) -> Path:
    """Write the first samples of a split: as the split itself for training, else beside it. Return the file."""
    file = out / "data" / f"{split}.jsonl"
    whole = file.with_suffix(".whole.jsonl")
    if not whole.is_file():
        write_text(whole, file.read_text(encoding="utf-8"))
    rows = [f"{line}\n" for line in whole.read_text(encoding="utf-8").split("\n") if line]
    cut = file if split == "train" else file.with_suffix(".cut.jsonl")
    write_text(cut, "".join(rows[place % len(rows)] for place in range(count)))
    return cut


def _steps(one: Planned, found: Divided) -> dict[str, int]:
    """Return the steps of each stage, or of the alignment."""
    config = one.resolved.config.training
    if config.stages is None:
        return {"alignment": config.steps}
    return {
        stage.name: stage.steps or math.ceil((stage.epochs or 1) * found.train / stage.batch_size)
        for stage in config.stages
    }


def _step_times(metrics: Path, steps: dict[str, int]) -> dict[str, float]:
    """Return the seconds of a step of each stage, and of all steps together as ``all``."""
    ends: dict[str, list[float]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = decode(line)
        if "loss" in row:
            ends.setdefault(row["stage"], []).append(row["time"])
    each = {name: found[-1] - found[-2] for name, found in ends.items() if len(found) > 1}
    return {**each, "all": sum(each[name] * count for name, count in steps.items() if name in each)}
