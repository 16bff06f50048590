"""Time a tower's forward on a CPU, compared with the bare library with the same layers (``library``), with the way LLaVA
and VITA run the encoder (``original``), and with the machine's own matrix product (``GEMM``)."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import alternate, clock_option, ratio, report
from families import FAMILIES, Family, assert_alike

from vita_core import build_tower
from vita_core.towers.devices import dtype_on

PRODUCTS = 8
"""The number of matrix products in one round that measures the machine's own rate."""


def gemm(rows: int, width: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that computes `PRODUCTS` products (rows x width by width x 4 width) into existing memory."""
    a, b = torch.rand(rows, width).to(dtype), torch.rand(width, 4 * width).to(dtype)
    out = torch.empty(rows, 4 * width, dtype=dtype)

    def run() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)

    return run


@torch.inference_mode()
def compare(
    family: Family, folder: Path, dtype: torch.dtype, batch: int, options: argparse.Namespace
) -> dict[str, object]:
    name = str(dtype).removeprefix("torch.")
    config = {**family.tower, "weights": str(folder), "dtype": name}
    tower = build_tower(config)
    sides: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"ours": tower}
    if options.compile:
        sides["compiled"] = build_tower({**config, "compile": True})
    sides |= {"library": family.best(folder, dtype), "original": family.original(folder, dtype)}
    pixels = torch.rand(batch, 3, family.side, family.side).to(dtype)
    for side in sides.values():
        assert_alike(tower(pixels[:1]), side(pixels[:1]))
    rows, width = tower.num_patches, tower.shape.stages[-1].channels
    runs = {name: functools.partial(side, pixels) for name, side in sides.items()}
    times = alternate({**runs, "gemm": gemm(batch * rows, width, dtype)}, options.rounds, options.clock)
    flops = 2 * batch * sum(stage.macs for stage in tower.shape.stages[: tower.blocks + 1])
    rate = 2 * PRODUCTS * batch * rows * width * 4 * width / statistics.median(times["gemm"])
    return {
        "encoder": family.name,
        "dtype": name,
        "batch": batch,
        "ours / library": ratio(times, "ours", "library"),
        "original / ours": ratio(times, "original", "ours"),
        **({"compiled / ours": ratio(times, "compiled", "ours")} if options.compile else {}),
        "of GEMM rate": flops / statistics.median(times["ours"]) / rate,
        "library, of it": flops / statistics.median(times["library"]) / rate,
        "GEMM, GFLOP/s": rate / 1e9,
        "seconds": statistics.median(times["ours"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Measure CLIP only, with two layers and batch 4.")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="Number of layers, if fewer than published.")
    parser.add_argument("--compile", action="store_true", help="Also time the tower with `compile: true`.")
    parser.add_argument("--name", default="encode", help="Name of the result file.")
    clock_option(parser)
    arguments = parser.parse_args()
    families, batches, layers = arguments.families, arguments.batches, arguments.layers
    if arguments.quick:
        families, batches, layers = ["clip"], [4], 2
    dtypes = dict.fromkeys((torch.float32, dtype_on("auto", torch.device("cpu"))))
    rows = []
    for name in families:
        family = FAMILIES[name](**({} if layers is None else {"layers": layers}))
        with tempfile.TemporaryDirectory() as folder:
            family.save(Path(folder))
            for dtype, batch in itertools.product(dtypes, batches):
                rows.append(compare(family, Path(folder), dtype, batch, arguments))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)  # a full run takes most of an hour
    report(
        arguments.name, "forward on a CPU", list(rows[0]), rows, threads=torch.get_num_threads(),
        layers=layers or "all", clock=arguments.clock.__name__, torch=torch.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
