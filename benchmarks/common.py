"""Functions that the benchmarks share: they time sides in turn, compute ratios with their spread, and write the result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(os.environ.get("VITA_BENCH_RESULTS", Path(__file__).parent / "results"))
"""The folder of the results. Committed results come from full runs; ``guard.py`` writes its quick runs elsewhere."""
Times = dict[str, list[float]]


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], Any] = lambda: None,
) -> Times:
    """Run every side once a round, for `rounds` rounds after a warm-up round, and return the seconds of each run.

    Every second round runs the sides in reverse order. Pass `time.process_time` as `clock` if other programs share the
    processor. `settle` waits until the device has finished its work.
    """
    times: Times = {name: [] for name in sides}
    for number in range(-1, rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = clock()
            sides[name]()
            settle()
            if number >= 0:
                times[name].append(clock() - start)
    return times


def settled(device: str) -> Callable[[], Any]:
    """Return the `settle` function of `alternate` for `device`. On a CPU, work is done when a call returns: it does nothing."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.accelerator.synchronize


def clock_option(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--cpu-time``. It sets `clock` in the parsed arguments."""
    parser.add_argument(
        "--cpu-time", dest="clock", action="store_const", const=time.process_time, default=time.perf_counter,
        help="Count the process's CPU seconds. Use it, with one thread, on a machine that other programs share.",
    )  # fmt: skip


def once(value: float) -> dict[str, float]:
    """Return a ratio that was measured once, in the form that `ratio` returns."""
    return {"median": round(value, 3), "low": round(value, 3), "high": round(value, 3)}


def ratio(times: Times, side: str, beside: str) -> dict[str, float]:
    """Return the time of `side` divided by the time of `beside` in each round: median, lowest and highest."""
    ratios = [a / b for a, b in zip(times[side], times[beside], strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
    }


def machine() -> dict[str, Any]:
    """Return the machine that the numbers come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def report(name: str, claim: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print the rows as a table and write them to ``NAME.json`` in `RESULTS`."""
    table = Table(title=claim, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    record = {"claim": claim, "machine": machine(), **more, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']} ({value['low']}-{value['high']})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
