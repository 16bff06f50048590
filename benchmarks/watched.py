"""A child process whose anonymous memory is watched from outside while it does one thing.

Mapped files count in RSS until they are evicted, so RssAnon is read.
"""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

__all__ = ["peak"]


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def peak(code: str, *arguments: str) -> tuple[int, int]:
    """Bytes that `code` took at the most between its line ``ready`` and its next one, and the number which that one is.

    The code prints ``ready``, reads a line, does what is measured, prints an integer, and reads a line again.
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
