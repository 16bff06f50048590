"""A tower's forward beside the bare library with the same layers, and beside the way LLaVA and VITA run it."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import alternate, ratio, report
from families import FAMILIES, Family

from vita_core import build_tower


def gemm_rate(rows: int, width: int) -> float:
    """FLOP/s of the machine's own matrix product (rows x width by width x 4 width), the best of several."""
    a, b = torch.rand(rows, width), torch.rand(width, 4 * width)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * rows * width * 4 * width / (time.perf_counter() - start))
    return best


@torch.inference_mode()
def compare(family: Family, folder: Path, batch: int, rounds: int) -> dict[str, object]:
    tower = build_tower({**family.tower, "weights": str(folder)})
    best, original = family.best(folder), family.original(folder)
    pixels = torch.rand(batch, 3, family.side, family.side)
    for side in (best, original):
        torch.testing.assert_close(tower(pixels[:1]), side(pixels[:1]), atol=2e-4, rtol=1e-4)
    sides = {"ours": lambda: tower(pixels), "library": lambda: best(pixels), "original": lambda: original(pixels)}
    times = alternate(sides, rounds)
    flops = 2 * batch * sum(stage.macs for stage in tower.shape.stages[: tower.blocks + 1])
    rate = gemm_rate(batch * tower.num_patches, tower.shape.stages[-1].channels)
    return {
        "encoder": family.name,
        "batch": batch,
        "ours / library": ratio(times, "ours", "library"),
        "original / ours": ratio(times, "original", "ours"),
        "of GEMM rate": flops / statistics.median(times["ours"]) / rate,
        "seconds": statistics.median(times["ours"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.families:
        family = FAMILIES[name]()
        with tempfile.TemporaryDirectory() as folder:
            family.save(Path(folder))
            rows += [compare(family, Path(folder), batch, arguments.rounds) for batch in arguments.batches]
    columns = ["encoder", "batch", "ours / library", "original / ours", "of GEMM rate", "seconds"]
    report("encode", "forward, float32, CPU", columns, rows, threads=torch.get_num_threads(), torch=torch.__version__)


if __name__ == "__main__":
    main()
