"""Measure the time of each phase of a command, from the start of its process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Phases"]


class Phases:
    """The times of successive phases. The first phase began when the process started.

    `seconds` maps the name of each phase to its time, in the order of the phases.
    """

    def __init__(self) -> None:
        self._last = time.perf_counter() - _age()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """End the current phase, name it `name`, and begin the next one."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now

    def lines(self, until: str) -> Sequence[str]:
        """Return one line per phase. The line of the phase `until` also has the sum of the times so far."""
        lines, total = [], 0.0
        for name, seconds in self.seconds.items():
            total += seconds
            since = f" ({total:.3f} s since the process started)" if name == until else ""
            lines.append(f"{seconds:9.3f} s  {name}{since}")
        return lines


def _age() -> float:
    """Return the seconds since this process started, or its processor time if the system has no ``/proc``."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.process_time()
    # field 22 is the start time of the process, in ticks since the machine started
    ticks = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
