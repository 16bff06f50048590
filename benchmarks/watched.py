"""Measure memory: the anonymous memory of a child process from outside, or what torch holds for one forward.

The first reads RssAnon, because RSS also counts the pages of mapped files until they are evicted. The second is the same in
every run.
"""

from __future__ import annotations

import select
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

__all__ = ["held", "peak"]


def anonymous(pid: int) -> int:
    """Return the bytes of anonymous memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def peak(code: str, *arguments: str) -> tuple[int, int]:
    """Run `code` in a child process. Return the peak of the bytes that it takes, and the integer that it prints.

    `code` must print ``ready``, read a line, do the work that is measured, print an integer, and read a line again. The
    peak counts from ``ready`` on, above the memory at that moment.
    """
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    before = most = anonymous(child.pid)
    child.stdin.write("\n")
    child.stdin.flush()
    while not select.select([child.stdout], [], [], 0.001)[0]:
        most = max(most, anonymous(child.pid))
    said = int(child.stdout.readline())
    most = max(most, anonymous(child.pid))
    child.communicate("\n")
    return most - before, said


def held(tower: Any, pixels: Any) -> tuple[int, int]:
    """Return the most bytes that torch holds at once for a forward, above those before it, and the bytes of its output."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        features = tower(pixels)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes)), features.numel() * features.element_size()
