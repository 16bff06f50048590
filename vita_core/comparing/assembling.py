"""Make the numbers of ``comparison.json`` from the scores of all runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vita_core.comparing.planned import Planned
from vita_core.comparing.records import fits
from vita_core.comparing.repeating import portable
from vita_core.comparing.running import Finished
from vita_core.comparing.statistics import Estimate, estimate, holm, needed_groups
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import Resolved
from vita_core.probing.scores import interval_of_equals
from vita_core.training.data import Sample
from vita_core.untrusted.jsonfiles import decode
from vita_core.untrusted.limits import RECORD

__all__ = ["config_entry", "examples", "pairs"]

MEASURES = ("named", "loss")
POINTS = 40
"""How many points a learning curve has at most."""
EXAMPLES = 10


def config_entry(
    planned: Planned,
    finished: Sequence[Finished] | None,
    failed: str | None,
    tuning: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what ``comparison.json`` says of a config. `finished` are its runs by seed, or None if it failed."""
    plan, resolved = make_plan(planned.resolved), planned.resolved
    sizes = dict.fromkeys(("tower", "reduce", "projector", "llm"), 0)
    for stage in plan.stages:
        if stage.stage in sizes:
            sizes[stage.stage] += stage.parameters
    entry = {
        "name": planned.name,
        "failed": failed,
        "unequal": list(planned.unequal),
        "tower": " + ".join(part.spec.name for part in resolved.tower.parts) or resolved.tower.spec.name,
        "weights": " + ".join(_weights(part.source.weights) for part in resolved.tower.parts or (resolved.tower,)),
        "tokens": planned.tokens,
        "tokens_before": planned.before,
        "hidden_size": resolved.tower.geometry.hidden_size,
        "parameters": sizes,
        "flops_per_picture": plan.flops,
        "learning_rate": _rate(resolved),
        "tuning": list(tuning),
        "config": portable(resolved.config.model_dump(mode="json", exclude_none=True)),
    }
    if finished is None:
        return entry | dict.fromkeys(("loss", "named", "shuffled", "above_chance")) | {"seeds": [], "curve": []}
    if finished[0].run.rate is not None:
        entry["learning_rate"] = finished[0].run.rate
    groups = [row["group"] for row in finished[0].rows]
    means = {
        measure: _interval(estimate(_scores(finished, measure), groups, share=measure != "loss"))
        for measure in ("loss", "named", "shuffled")
    }
    gain = _scores(finished, "named") - _scores(finished, "shuffled")
    means["above_chance"] = _interval(estimate(gain, groups))
    seeds = [
        {"seed": one.run.seed, **{m: float(_scores([one], m).mean()) for m in ("loss", "named", "shuffled")}}
        for one in finished
    ]
    return entry | means | {"seeds": seeds, "curve": _curve([one.run.folder for one in finished])}


def _weights(name: str) -> str:
    """Return the name of weights without the place of a file on this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def _rate(resolved: Resolved) -> float:
    """Return the learning rate of a config, or of its last stage."""
    training = resolved.config.training
    return training.learning_rate if training.stages is None else training.stages[-1].learning_rate


def _scores(finished: Sequence[Finished], measure: str) -> NDArray[np.float64]:
    """Return a measure of each picture (seeds, pictures)."""
    return np.array([[row[measure] for row in one.rows] for one in finished], float)


def _interval(found: Estimate) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def pairs(finished: Mapping[str, Sequence[Finished]], pictures: int) -> list[dict[str, Any]]:
    """Return the paired differences between all configs, first minus second, in the share named and in the loss.

    Holm's correction is over all of them. `needed` is how many test pictures would show a difference of this size, if so
    many would do and it is not shown yet. `pictures` is how many there are.
    """
    rows: list[dict[str, Any]] = []
    tests = math.comb(len(finished), 2) * len(MEASURES)
    for (a, first), (b, second) in combinations(finished.items(), 2):
        groups = [row["group"] for row in first[0].rows]
        for measure in MEASURES:
            found = estimate(_scores(first, measure) - _scores(second, measure), groups)
            low, high = found.low, found.high
            if measure == "named":
                low, high = _bounded(found, len(set(groups)))
            needed = needed_groups(found, len(set(groups)), tests)
            wanted = None if needed is None else -(-needed * pictures // len(set(groups)))
            rows.append(
                {"a": a, "b": b, "measure": measure, "difference": found.mean, "low": low, "high": high, "p": found.p}
                | {"needed": wanted}
            )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "significant": p < 0.05}
        row["needed"] = None if row["significant"] else row["needed"]
    return rows


def _bounded(found: Estimate, groups: int) -> tuple[float, float]:
    """Return the interval of a difference of shares within -1 and 1. `groups` are the draws, which may all be equal."""
    if found.error == 0:
        return interval_of_equals(found.mean, groups, (-1.0, 1.0))
    return max(-1.0, found.low), min(1.0, found.high)


def _curve(folders: Sequence[Path]) -> list[dict[str, float]]:
    """Return the mean training loss by step over the seeds, with that of the lowest and the highest seed."""
    curves = [_losses(folder / "metrics.jsonl") for folder in folders]
    steps = sorted(set.intersection(*({*curve} for curve in curves)))
    size = -(-len(steps) // POINTS) if steps else 1
    points = []
    for start in range(0, len(steps), size):
        chosen = steps[start : start + size]
        values = [sum(curve[step] for step in chosen) / len(chosen) for curve in curves]
        points.append({"step": chosen[-1], "loss": sum(values) / len(values), "low": min(values), "high": max(values)})
    return points


def _losses(file: Path) -> dict[int, float]:
    """Return the training loss by step over all stages. Of a step that ran twice, as after a resume, the last one counts.

    A line that is no such record is left out: it is cut short where a process ended.
    """
    stages: dict[str, dict[int, float]] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
        with suppress(ValueError):
            row = decode(line, RECORD)
            if fits(row, {"stage": str, "step": int, "loss": (int, float)}) and row["stage"] != "warm-start":
                stages.setdefault(row["stage"], {})[row["step"]] = row["loss"]
    found: dict[int, float] = {}
    before = 0
    for losses in stages.values():
        found |= {before + step: loss for step, loss in losses.items()}
        before += max(losses)
    return found


def examples(finished: Mapping[str, Sequence[Finished]], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the same held-out pictures with the answer of each config's first seed, up to ten that are evenly apart."""
    count = min(EXAMPLES, len(samples))
    chosen = [place * len(samples) // count for place in range(count)]
    return [
        {
            "image": samples[place].image.name,
            "caption": samples[place].caption,
            "answers": {name: runs[0].rows[place]["answer"] for name, runs in finished.items()},
            "named": {name: runs[0].rows[place]["named"] for name, runs in finished.items()},
            "place": place,
        }
        for place in chosen
    ]
