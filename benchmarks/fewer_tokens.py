"""What fusion.py measures of reductions and projectors: their time beside CLIP-L/14-336, behind its last block and inside it."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from cases import SIZES, WIDTH, Step, inner_steps, projectors, steps, written
from common import Times, alternate, ratio

from vita_core import build_tower
from vita_core.language.projectors.projecting import project
from vita_core.planning.plan import make_plan
from vita_core.planning.projectors import ResolvedProjector
from vita_core.plugins.registry import import_object
from vita_core.towers.reducing import build_reduction

WEIGHTLESS, LEARNED, INSIDE = 2.0, 1.2, 1.1
"""The goals: percent of the encoder's time, time over what the operations predict, and time over what the plan predicts."""
REPEATS = 5
"""How many times a step behind the encoder runs in one round."""
ENCODER = "the encoder"


def row(
    topic: str, what: str, beside: str, cell: dict[str, float], goal: float | None, seconds: list[float] | None = None,
    pictures: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Return one row of the results. `ms` is the median time of one picture."""
    ms = None if seconds is None else round(1000 * statistics.median(seconds) / pictures, 3)
    return {"topic": topic, "what": what, "beside": beside, "ratio": cell, "goal": goal, "ms": ms}


def behind(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the time of each step behind the encoder: in percent of the encoder's, and over what its operations predict."""
    config = options.saved(options.whole)
    tower, pixels, macs = build_tower(config), torch.rand(1, 3, 336, 336), make_plan({"tower": config}).flops / 2
    reductions = {str(step): step for step in steps()}
    runs = {name: of_step(step) for name, step in reductions.items() if not step.resolved.spec.scores}
    runs |= {each.name: of_projector(each) for each in projectors()}
    sides: dict[str, Callable[[], Any]] = {ENCODER: lambda: tower(pixels)}
    sides |= {name: lambda run=run: [run() for _ in range(REPEATS)] for name, run in runs.items()}
    times = alternate(sides, options.rounds, options.clock)
    taken = {name: [seconds / REPEATS for seconds in times[name]] for name in runs}
    taken |= {name: with_scores(step, options) for name, step in reductions.items() if step.resolved.spec.scores}
    for name, seconds in taken.items():
        step = reductions.get(name)
        topic = "projector" if step is None else "learned" if step.resolved.spec.trainable else "reduction"
        share = beside(seconds, [second / 100 for second in times[ENCODER]])
        goal = WEIGHTLESS if topic == "reduction" else None
        yield row(topic, name, f"% of the time of {options.encoder}", share, goal, seconds)
        if step is not None and topic == "learned":
            predicted = [second * step.resolved.macs / macs for second in times[ENCODER]]
            yield row(topic, name, "its operations at the encoder's rate", beside(seconds, predicted), LEARNED, seconds)


def beside(seconds: list[float], others: list[float]) -> dict[str, float]:
    """Return `seconds` divided by `others`, round by round."""
    times: Times = {"one": seconds, "other": others}
    return ratio(times, "one", "other")


def of_step(step: Step) -> Callable[[], Any]:
    """Return what runs a reduction once on the tokens of one picture."""
    module, tokens = build_reduction(step.resolved).eval(), torch.rand(1, SIZES[0] * SIZES[1], SIZES[2])
    return lambda: module(tokens, SIZES[:2])


def of_projector(resolved: ResolvedProjector) -> Callable[[], Any]:
    """Return what runs a projector once on the tokens of one picture."""
    factory = import_object(resolved.spec.factory, requires=resolved.spec.requires, owner=resolved.owner)
    module = factory(resolved.name, SIZES[2], WIDTH, resolved.options).eval()
    tokens = torch.rand(1, SIZES[0] * SIZES[1], SIZES[2])
    return lambda: project(module, tokens, SIZES[:2])


def with_scores(step: Step, options: argparse.Namespace) -> list[float]:
    """Return the seconds that a reduction adds to an encoder of one block, with the scores that the encoder computes for it."""
    plain = options.saved(2)  # its last block is left out
    towers = {"with": build_tower({**plain, "reduce": step.config}), "without": build_tower(plain)}
    pixels = torch.rand(1, 3, 336, 336)
    sides = {name: lambda tower=tower: [tower(pixels) for _ in range(REPEATS)] for name, tower in towers.items()}
    times = alternate(sides, options.rounds, options.clock)
    pairs = zip(times["with"], times["without"], strict=True)
    return [(more - less) / REPEATS for more, less in pairs]


def inside(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the time of an encoder with a reduction inside over that of the encoder, divided by the same ratio of the plan."""
    plain, pixels = options.saved(options.whole), torch.rand(1, 3, 336, 336)
    blocks = options.whole - 1
    for step in inner_steps(blocks):
        configs = {"with": {**plain, "reduce": step}, "without": plain}
        towers = {name: build_tower(config) for name, config in configs.items()}
        flops = {name: make_plan({"tower": config}).flops for name, config in configs.items()}
        planned = flops["with"] / flops["without"]
        sides = {name: lambda tower=tower: tower(pixels) for name, tower in towers.items()}
        times = alternate(sides, options.rounds, options.clock)
        found = beside(times["with"], [planned * second for second in times["without"]])
        yield row(
            "inside", written(step), f"the plan's ratio of operations, {planned:.3f}", found, INSIDE, times["with"]
        )
