"""Measure the peak memory of a forward, compared with the bare library with the same layers (``library``) and with the
way LLaVA and VITA run the encoder, which keeps every hidden state (``original``)."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import once, report
from families import FAMILIES
from watched import peak

GOAL = 0.5
CHILD = """
import sys
from pathlib import Path
import torch
from families import FAMILIES
from vita_core import build_tower
side, name, folder, batch, layers = sys.argv[1:4] + [int(word) for word in sys.argv[4:]]
family = FAMILIES[name](layers=layers)
if side == "ours":
    run = build_tower({**family.tower, "weights": folder})
else:
    run = (family.original if side == "original" else family.best)(Path(folder), torch.float32)
with torch.inference_mode():
    pixels = torch.rand(batch, 3, family.side, family.side)
    print("ready", flush=True)
    sys.stdin.readline()
    features = run(pixels)
print(features.numel() * features.element_size(), flush=True)
sys.stdin.readline()
"""
LAYERS = {"clip": 24, "siglip": 27, "eva_clip": 24, "internvit": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Measure CLIP only, with two layers and batch 4.")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    arguments = parser.parse_args()
    families, batches = (["clip"], [4]) if arguments.quick else (arguments.families, arguments.batches)
    rows = []
    for name in families:
        layers = 2 if arguments.quick else LAYERS[name]
        family = FAMILIES[name](layers=layers)
        with tempfile.TemporaryDirectory() as folder:
            family.save(Path(folder))
            for batch in batches:
                taken = {
                    side: peak(CHILD, side, name, folder, str(batch), str(layers))[0]
                    for side in ("ours", "library", "original")
                }
                rows.append(
                    {
                        "encoder": family.name,
                        "batch": batch,
                        "ours / original": once(taken["ours"] / taken["original"]),
                        "ours / library": once(taken["ours"] / taken["library"]),
                        **{f"{side}, MB": taken[side] / 1e6 for side in taken},
                    }
                )
    claim = f"peak memory of a forward, goal: at most {GOAL}x of keeping every hidden state"
    report("activations", claim, list(rows[0]), rows, goal=GOAL, layers=2 if arguments.quick else "all")


if __name__ == "__main__":
    main()
