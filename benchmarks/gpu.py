"""On a CUDA device: bfloat16, eager and compiled, a sweep of batches, the share of the measured matrix product, and copies
from pinned memory that overlap the tower. Without one it says so and measures nothing."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import alternate, ratio, report
from families import FAMILIES
from torch import Tensor

from vita_core import build_tower
from vita_core.tower import BaseVisionTower

GOAL, SIDE = 0.55, 8192
Run = Callable[[], Any]


def waited(run: Run) -> Run:
    """`run`, and then until the device has done it."""

    def both() -> None:
        run()
        torch.cuda.synchronize()

    return both


def gemm_rate() -> float:
    """FLOP/s of a large matrix product in bfloat16, the best of ten."""
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = alternate({"gemm": waited(lambda: a @ b)}, 10)["gemm"]
    return 2.0 * SIDE**3 / min(times)


@torch.inference_mode()
def sweep(name: str, batches: list[int], rounds: int, layers: dict[str, int]) -> list[dict[str, Any]]:
    family, rate, rows = FAMILIES[name](**layers), gemm_rate(), []
    with tempfile.TemporaryDirectory() as folder:
        family.save(Path(folder))
        config = {**family.tower, "weights": folder, "dtype": "bfloat16"}
        eager, compiled = (build_tower({**config, "compile": compiling}, device="cuda") for compiling in (False, True))
        best = _on_device(family.best, Path(folder))
        for batch in batches:
            pixels = torch.rand(batch, 3, family.side, family.side, device="cuda", dtype=torch.bfloat16)
            expected = best(pixels)
            for tower in (eager, compiled):
                error = (
                    tower(pixels) - expected
                ).float().square().mean().sqrt() / expected.float().square().mean().sqrt()
                assert error < 0.03, f"features are {error:.1%} off the library's"
            sides = {"eager": eager, "compiled": compiled, "library": best}
            times = alternate({side: waited(partial(run, pixels)) for side, run in sides.items()}, rounds)
            flops = 2 * batch * sum(stage.macs for stage in eager.shape.stages[: eager.blocks + 1])
            rows.append(
                {
                    "encoder": family.name,
                    "batch": batch,
                    "eager / library": ratio(times, "eager", "library"),
                    "compiled / library": ratio(times, "compiled", "library"),
                    "eager MFU": flops / min(times["eager"]) / rate,
                    "compiled MFU": flops / min(times["compiled"]) / rate,
                    "pictures/s": batch / min(times["compiled"]),
                }
            )
        rows[-1]["overlapped / one after the other"] = copies(compiled, batches[-1], family.side, rounds)
    return rows


def _on_device(best: Callable[..., Any], folder: Path) -> Callable[[Tensor], Tensor]:
    """The bare library's forward with its modules built on the device."""
    with torch.device("cuda"):
        forward: Callable[[Tensor], Tensor] = best(folder, torch.bfloat16)
    return forward


def copies(tower: BaseVisionTower, batch: int, side: int, rounds: int, count: int = 8) -> dict[str, float]:
    """Ratio of encoding `count` batches from pinned memory, each copied while the one before is encoded, to pageable ones."""
    plain = [torch.rand(batch, 3, side, side) for _ in range(count)]
    pinned = [pixels.pin_memory() for pixels in plain]
    stream = torch.cuda.Stream()

    def ahead() -> Iterator[Tensor]:
        with torch.cuda.stream(stream):
            following = pinned[0].to("cuda", non_blocking=True)
        for index in range(count):
            torch.cuda.current_stream().wait_stream(stream)
            pixels = following
            pixels.record_stream(torch.cuda.current_stream())
            if index + 1 < count:
                with torch.cuda.stream(stream):
                    following = pinned[index + 1].to("cuda", non_blocking=True)
            yield pixels

    sides = {
        "overlapped": waited(lambda: [tower(pixels) for pixels in ahead()]),
        "one after the other": waited(lambda: [tower(pixels) for pixels in plain]),
    }
    return ratio(alternate(sides, rounds), "overlapped", "one after the other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Four layers, batches 8 and 32.")
    parser.add_argument("--families", nargs="+", default=["internvit", "siglip"], choices=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing is measured")
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        print(f"{torch.cuda.get_device_name()} has no units for bfloat16: nothing is measured")
        return
    batches, layers = ([8, 32], {"layers": 4}) if arguments.quick else (arguments.batches, {})
    rows = [row for name in arguments.families for row in sweep(name, batches, arguments.rounds, layers)]
    columns = ["encoder", "batch", "eager / library", "compiled / library", "eager MFU", "compiled MFU", "pictures/s"]
    report(
        "gpu", f"bfloat16 on {torch.cuda.get_device_name()}: MFU of {GOAL} and up", columns, rows, goal=GOAL,
        device=torch.cuda.get_device_name(), torch=torch.__version__,
    )  # fmt: skip
    for row in rows:
        if "overlapped / one after the other" in row:
            print(row["encoder"], "overlapped copies:", row["overlapped / one after the other"])


if __name__ == "__main__":
    main()
