"""The whole of ``vita compare``: plan, divide the data, train and score every config, and write what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vita_core.benchmarking.running import Scores, check_tasks, mean_scores
from vita_core.comparing.assembling import config_entry, examples, pairs
from vita_core.comparing.dividing import Data, Divided, divided, read_data
from vita_core.comparing.page import write_page
from vita_core.comparing.planned import Asked, Options, Planned, besides_tower, plan_configs
from vita_core.comparing.records import COMPARED, compared, refuse_unwritable
from vita_core.comparing.repeating import command, readable
from vita_core.comparing.report import write_report
from vita_core.comparing.running import Finished, Runner, rate_overrides
from vita_core.comparing.statistics import RESAMPLES, check_installed
from vita_core.comparing.towers import look, spread, time_towers
from vita_core.comparing.verdict import notes, verdict
from vita_core.errors import ConfigError
from vita_core.probing.measures import rounded
from vita_core.training import processes
from vita_core.training.data import Sample, read_samples
from vita_core.weights.files import write_text
from vita_core.weights.locks import alone

__all__ = ["checked", "compare", "prepared"]

Scored = dict[str, list[Finished]]
Tunings = dict[str, list[dict[str, Any]]]


def checked(asked: Sequence[Asked], data: Path, out: Path, options: Options) -> tuple[list[Planned], Data, str]:
    """Make every check that needs no weights. Return the configs, the data, and the record of both. Raises VitaError.

    Nothing is written.
    """
    check_installed()
    if processes.count() > 1:
        raise ConfigError(
            f"a comparison runs in one process, not {processes.count()}. Try: the same command without torchrun"
        )
    if len(asked) < 2:
        raise ConfigError("one config cannot be compared. Try: `vita compare A.yaml B.yaml --data DATA --out DIR`")
    if options.benchmarks:
        check_tasks(options.benchmarks)
    refuse_unwritable(out)
    planned = plan_configs(asked, tokens=options.tokens, steps=options.steps, unequal=options.unequal)
    for one in planned:
        for rate in options.rates:
            rate_overrides(one.resolved, rate)
    read = read_data(data)
    return planned, read, compared(out, read.sha256, planned)


def prepared(asked: Sequence[Asked], data: Path, out: Path, options: Options) -> tuple[list[Planned], Divided]:
    """Make every check that needs no weights, and divide the data. Raises VitaError."""
    planned, read, record = checked(asked, data, out, options)
    found = divided(read, out / "data")
    write_text(out / COMPARED, record)
    return planned, found


def compare(asked: Sequence[Asked], data: Path, out: Path, options: Options) -> dict[str, Any]:
    """Train and score configs side by side, and return what ``out/comparison.json`` says.

    Call it again with the same arguments to go on after it was interrupted. A config that fails is in the result, with
    the reason; the others are compared without it. Raises VitaError before anything is trained if they cannot be compared.
    """
    planned, splits = prepared(asked, data, out, options)
    with alone(out, "vita compare"):
        return _compared(planned, splits, asked, data, out, options)


def _compared(
    planned: Sequence[Planned], splits: Divided, asked: Sequence[Asked], data: Path, out: Path, options: Options
) -> dict[str, Any]:
    """Train and score configs, and write what was found to `out`."""
    runner = Runner(out, splits)
    best, tunings = _tuned(runner, planned, options)
    scored = _scored(runner, planned, best, options)
    benchmarks = _benchmarked(runner, scored, options.benchmarks)
    test = read_samples(out / "data" / "test.jsonl")
    comparison = _comparison(planned, scored, tunings, runner.failed, splits, options)
    comparison["settings"]["command"] = command(asked, data, options)
    comparison |= {"examples": examples(scored, test) if scored else []}
    for one in comparison["configs"] if options.benchmarks else ():
        one["lmms_eval"] = benchmarks.get(one["name"], {})
    timings = _look(out, [one for one in planned if one.name in scored], scored, comparison, test)
    found: dict[str, Any] = rounded(comparison)
    write_text(out / "timings.json", json.dumps(rounded(timings), indent=1))
    write_text(out / "comparison.json", json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True))
    write_report(out, new=True)
    write_page(out, new=True)
    return found


def _tuned(runner: Runner, planned: Sequence[Planned], options: Options) -> tuple[dict[str, float | None], Tunings]:
    """Try every rate with the first seed of each config. Return the best rate by validation loss, and all losses."""
    best: dict[str, float | None] = {one.name: None for one in planned}
    losses: Tunings = {one.name: [] for one in planned}
    for rate in options.rates:
        for one in planned:
            loss = runner.validated(runner.run(one, rate, options.seeds[0]))
            losses[one.name].append({"learning_rate": rate, "validation_loss": loss})
    for name, found in losses.items():
        if numbers := [row for row in found if row["validation_loss"] is not None]:
            best[name] = min(numbers, key=lambda row: row["validation_loss"])["learning_rate"]
        elif options.rates:
            runner.failed.setdefault(name, "no learning rate of --tune gives a validation loss that is a number")
    return best, losses


def _scored(runner: Runner, planned: Sequence[Planned], best: dict[str, float | None], options: Options) -> Scored:
    """Return the runs of every config that did not fail. The configs take turns, so that their times can be compared."""
    found: Scored = {one.name: [] for one in planned}
    for seed in options.seeds:
        for one in planned:
            finished = runner.tested(runner.run(one, best[one.name], seed))
            if finished is not None:
                found[one.name].append(finished)
    return {name: runs for name, runs in found.items() if name not in runner.failed}


def _benchmarked(runner: Runner, scored: Scored, tasks: Sequence[str]) -> dict[str, Scores]:
    """Return the scores on the benchmarks, the mean over the seeds. A config that fails there leaves `scored`."""
    found = {}
    for name, runs in [*scored.items()] if tasks else ():
        scores = [runner.benchmarked(one.run, tasks) for one in runs]
        if name in runner.failed:
            del scored[name]
        else:
            found[name] = mean_scores([one for one in scores if one is not None])
    return found


def _comparison(
    planned: Sequence[Planned],
    scored: Scored,
    tunings: Tunings,
    failed: dict[str, str],
    found: Divided,
    options: Options,
) -> dict[str, Any]:
    entries = [config_entry(one, scored.get(one.name), failed.get(one.name), tunings[one.name]) for one in planned]
    steps = {_steps(one) for one in planned}
    comparison: dict[str, Any] = {
        "format": 1,
        "unequal": [f"{one.name}: {reason}" for one in planned for reason in one.unequal],
        "data": {
            **{key: getattr(found, key) for key in ("name", "train", "validation", "test", "groups", "sha256")},
            "test_groups": len(set(found.test_groups)),
        },
        "settings": {
            "seeds": list(options.seeds),
            "tokens": options.tokens,
            "steps": steps.pop() if len(steps) == 1 else None,
            "tune": {"learning_rate": list(options.rates)} if options.rates else {},
            "resamples": RESAMPLES,
        },
        "configs": entries,
        "pairs": pairs(scored, found.test),
    }
    comparison["verdict"] = verdict(comparison)
    comparison["notes"] = notes(comparison)
    if keys := besides_tower(planned):
        comparison["notes"].append(f"The configs differ in more than the tower: {', '.join(keys)}.")
    return comparison


def _steps(one: Planned) -> int | None:
    """Return the steps of a config, of all its stages, or None if a stage counts epochs."""
    training = one.resolved.config.training
    stages = [training] if training.stages is None else training.stages
    steps = [stage.steps for stage in stages]
    return None if None in steps else sum(step or 0 for step in steps)


def _look(
    out: Path, planned: Sequence[Planned], scored: Scored, comparison: dict[str, Any], test: Sequence[Sample]
) -> dict[str, Any]:
    """Add to the comparison what the towers themselves show, write the pictures of the page, and return the times.

    What cannot be shown or measured is a note: the scores are not lost for it.
    """
    every = [*test, *(one for name in ("validation", "train") for one in read_samples(out / "data" / f"{name}.jsonl"))]
    shown = comparison["examples"]
    comparison["cka"], drawn, failed = look(planned, every, [test[row.pop("place")] for row in shown], out / "page")
    comparison["examples"] = [{**row, **files} for row, files in zip(shown, drawn, strict=True)]
    times: dict[str, Any] = {}
    try:
        times = time_towers(planned, test)
    except Exception as error:  # such as too little memory for all towers at once
        reason = readable(f"{type(error).__name__}: {error}")
        comparison["notes"].append(f"The times of the towers could not be measured: {reason}")
    comparison["notes"] += [
        f"{name} has no CKA and no token maps, because its tower failed there: {readable(reason)}"
        for name, reason in failed.items()
    ]
    timings = {}
    for name, runs in scored.items():
        seconds = [run.record["seconds"] for run in runs if run.record["seconds"] is not None]
        peaks = [run.record["peak_bytes"] for run in runs if run.record["peak_bytes"] is not None]
        timings[name] = {
            "ms_per_picture": times.get(name),
            "peak_bytes": max(peaks, default=None),
            "training_seconds": spread(seconds) if seconds else None,
        }
    return timings
