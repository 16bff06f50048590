"""Measure the peak of anonymous memory while a tower loads, divided by the size of its weights in the loaded dtype."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import once, report
from families import FAMILIES
from watched import peak

GOAL = 1.15
CHILD = """
import importlib, sys
import torch, transformers, timm, accelerate
from vita_core import build_tower
tower = build_tower({"type": sys.argv[1], "weights": sys.argv[2], "dtype": sys.argv[3], "delay_load": True})
importlib.import_module(type(tower).__module__)
print("ready", flush=True)
sys.stdin.readline()
tower.load_model()
print(sum(p.numel() * p.element_size() for p in tower.parameters()), flush=True)
sys.stdin.readline()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Measure InternViT only, with 6 layers.")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    arguments = parser.parse_args()
    families, layers = (["internvit"], {"layers": 6}) if arguments.quick else (arguments.families, {})
    rows = []
    for name in families:
        family = FAMILIES[name](**layers)
        with tempfile.TemporaryDirectory() as folder:
            family.save(Path(folder))
            for dtype in ("float32", "float16"):
                taken, weights = peak(CHILD, name, folder, dtype)
                rows.append(
                    {
                        "encoder": family.name,
                        "dtype": dtype,
                        "peak / weights": once(taken / weights),
                        "weights, MB": weights / 1e6,
                    }
                )
    claim = f"peak memory of loading, goal: at most {GOAL}x of the weights"
    report("load_memory", claim, list(rows[0]), rows, goal=GOAL, layers=layers.get("layers", "all"))


if __name__ == "__main__":
    main()
