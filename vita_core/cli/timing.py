"""Where a command's time goes: phase after phase, from the start of its process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Phases"]


class Phases:
    """Seconds of named phases, one behind the other without a gap; the first began when the process did.

    `seconds` is in the order in which they ended.
    """

    def __init__(self) -> None:
        self._last = time.perf_counter() - _age()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """The phase that runs ends now and is called `name`; the next begins."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now

    def lines(self, until: str) -> Sequence[str]:
        """A line a phase, with the sum of all up to `until` behind that one."""
        lines, total = [], 0.0
        for name, seconds in self.seconds.items():
            total += seconds
            lines.append(f"{seconds:9.3f} s  {name}" + (f" ({total:.3f} s since the process began)" * (name == until)))
        return lines


def _age() -> float:
    """Seconds since this process began; where the system does not say, those that the processor worked for it."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.process_time()
    ticks = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19])  # field 22, since the machine started
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
