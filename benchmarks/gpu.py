"""Measure towers on a CUDA device in bfloat16, eager and compiled, over several batch sizes.

Compared with the bare library and with the way LLaVA and VITA run the encoder (``original``). Also measures the share of a
matrix product's rate (MFU), the memory, and copies from pinned memory that overlap the encoder. Without such a device, it
prints a line and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import alternate, once, ratio, report
from families import FAMILIES, Forward, assert_alike, opened_on
from torch import Tensor

from vita_core import build_tower
from vita_core.pixels.prefetching import prefetched
from vita_core.towers.devices import copied

GOAL, SIDE, DTYPE = 0.55, 8192, torch.bfloat16
CUDA = torch.device("cuda")
timed = partial(alternate, settle=torch.cuda.synchronize)


def gemm_rate() -> float:
    """Return the FLOP/s of a large matrix product, the best of ten."""
    a, b = (torch.randn(SIDE, SIDE, device=CUDA, dtype=DTYPE) for _ in range(2))
    return 2.0 * SIDE**3 / min(timed({"gemm": lambda: a @ b}, 10)["gemm"])


def memory(run: Callable[[], Tensor]) -> int:
    """Return the bytes that a run needs at its peak, above the memory that is allocated before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


@torch.inference_mode()
def sweep(name: str, batches: list[int], rounds: int, layers: dict[str, int]) -> list[dict[str, Any]]:
    family, rate, rows = FAMILIES[name](**layers), gemm_rate(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        family.save(Path(folder))
        config = {**family.tower, "weights": folder, "dtype": "auto"}
        eager, compiled = (build_tower({**config, "compile": compiling}, device=CUDA) for compiling in (False, True))
        assert eager.dtype == DTYPE
        library, original = (opened_on("cuda", build, Path(folder), DTYPE) for build in (family.best, family.original))
    sides: dict[str, Forward] = {"eager": eager, "compiled": compiled, "library": library, "original": original}
    for batch in batches:
        pixels = torch.rand(batch, 3, family.side, family.side, device=CUDA, dtype=DTYPE)
        expected = library(pixels)
        for side in sides.values():
            assert_alike(side(pixels), expected)
        runs = {side: partial(run, pixels) for side, run in sides.items()}
        taken = {side: memory(run) for side, run in runs.items()}
        beside = {  # in pairs: in one round of all four, the side after the long original looks 4% faster
            name: timed({"eager": runs["eager"], name: runs[name]}, rounds)
            for name in ("library", "compiled", "original")
        }
        fastest = {name: min(times[name]) for name, times in beside.items()}
        flops = 2 * batch * sum(stage.macs for stage in eager.shape.stages[: eager.blocks + 1])
        rows.append(
            {
                "encoder": family.name,
                "batch": batch,
                "eager / library": ratio(beside["library"], "eager", "library"),
                "compiled / eager": ratio(beside["compiled"], "compiled", "eager"),
                "original / eager": ratio(beside["original"], "original", "eager"),
                "eager MFU": flops / min(beside["library"]["eager"]) / rate,
                "compiled MFU": flops / fastest["compiled"] / rate,
                "memory / original": once(taken["eager"] / taken["original"]),
                "pictures/s": batch / fastest["compiled"],
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    rows[-1] |= {
        f"overlapped, {how}": ratios for how, ratios in copies(sides, batches[-1], family.side, rounds).items()
    }
    rows[-1]["GEMM, TFLOP/s"] = rate / 1e12
    return rows


def copies(sides: dict[str, Forward], batch: int, side: int, rounds: int, count: int = 8) -> dict[str, Any]:
    """Return the time to encode `count` batches that a thread copies ahead, divided by the time without that thread.

    With the thread, the next batch is copied while the current one is encoded. Without it, the tower receives pictures on
    the CPU and copies each batch before it encodes it. Both are measured eager and compiled.
    """
    pictures = [torch.rand(batch, 3, side, side) for _ in range(count)]

    def ahead(tower: Forward) -> None:
        with prefetched(pictures, lambda pixels: copied(pixels, CUDA)) as batches:
            for (pixels,) in batches:
                tower(pixels)

    def in_turn(tower: Forward) -> None:
        for pixels in pictures:
            tower(pixels)

    found = {}
    for how in ("eager", "compiled"):
        times = timed({"ahead": partial(ahead, sides[how]), "in turn": partial(in_turn, sides[how])}, rounds)
        found[how] = ratio(times, "ahead", "in turn")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Use four layers and batches 8 and 32.")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device found; nothing was measured")
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        print(f"{torch.cuda.get_device_name()} has no units for bfloat16; nothing was measured")
        return
    batches, layers = ([8, 32], {"layers": 4}) if arguments.quick else (arguments.batches, {})
    rows = [row for name in arguments.families for row in sweep(name, batches, arguments.rounds, layers)]
    columns = list(rows[0])
    report(
        "gpu", f"bfloat16 on {torch.cuda.get_device_name()}, goal: MFU of at least {GOAL}", columns, rows, goal=GOAL,
        device=torch.cuda.get_device_name(), torch=torch.__version__,
    )  # fmt: skip
    for row in rows:
        for how in ("eager", "compiled"):
            if f"overlapped, {how}" in row:
                print(row["encoder"], f"{how}: copies ahead / in turn", row[f"overlapped, {how}"])


if __name__ == "__main__":
    main()
