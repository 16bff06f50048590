"""Anonymous memory at the peak of loading a tower, over the weights' size in the loaded dtype.

Mapped files count in RSS until they are evicted, so RssAnon is read, above what the imports took, by the parent process.
"""

from __future__ import annotations

import argparse
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from common import report
from families import FAMILIES

GOAL = 1.2
CHILD = """
import sys
import torch, transformers, timm, accelerate
from vita_core import build_tower
config = {"type": sys.argv[1], "weights": sys.argv[2], "dtype": sys.argv[3]}
tower = build_tower({**config, "delay_load": True})
import importlib; importlib.import_module(type(tower).__module__)
print("ready", flush=True)
sys.stdin.readline()
tower.load_model()
print(sum(p.numel() * p.element_size() for p in tower.parameters()), flush=True)
sys.stdin.readline()
"""


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(family: str, folder: str, dtype: str) -> dict[str, object]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, family, folder, dtype], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    before = peak = anonymous(child.pid)
    child.stdin.write("\n")
    child.stdin.flush()
    while not select.select([child.stdout], [], [], 0.001)[0]:
        peak = max(peak, anonymous(child.pid))
    weights = int(child.stdout.readline())
    peak = max(peak, anonymous(child.pid))
    child.communicate("\n")
    return {"encoder": family, "dtype": dtype, "weights MB": weights / 1e6, "peak / weights": (peak - before) / weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.families:
        with tempfile.TemporaryDirectory() as folder:
            FAMILIES[name]().save(Path(folder))
            rows += [measure(name, folder, dtype) for dtype in ("float32", "float16")]
    columns = ["encoder", "dtype", "weights MB", "peak / weights"]
    report("load_memory", f"peak memory of loading, at most {GOAL}x of the weights", columns, rows, goal=GOAL)


if __name__ == "__main__":
    main()
