"""What the benchmarks share: sides timed in turn, ratios with their spread, a JSON of the result."""

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
"""The committed results are those of full runs; the guard's quick ones go elsewhere."""
Times = dict[str, list[float]]


def alternate(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], Any] = lambda: None,
) -> Times:
    """Seconds of every side, `rounds` times in turn, each round in the other's reverse order; one round before warms up.

    `clock` is `time.process_time` where another program shares the processor; `settle` waits for a device that works on.
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
    """What `alternate` waits with for `device`: a CPU has done its work when the call returns."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.accelerator.synchronize


def clock_option(parser: argparse.ArgumentParser) -> None:
    """``--cpu-time``, as the option `clock`."""
    parser.add_argument(
        "--cpu-time", dest="clock", action="store_const", const=time.process_time, default=time.perf_counter,
        help="Count the process's CPU seconds, for a machine that other programs share (one thread only).",
    )  # fmt: skip


def once(value: float) -> dict[str, float]:
    """A ratio that was measured once, as `ratio` gives those measured often."""
    return {"median": round(value, 3), "low": round(value, 3), "high": round(value, 3)}


def ratio(times: Times, side: str, beside: str) -> dict[str, float]:
    """`side` over `beside`, round by round: median, lowest and highest."""
    ratios = [a / b for a, b in zip(times[side], times[beside], strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
    }


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def report(name: str, claim: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print the rows and write ``NAME.json`` in `RESULTS`."""
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
