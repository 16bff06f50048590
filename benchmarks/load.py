"""Time the loading of a tower with a warm file cache, compared with reading the file's bytes and with the library."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import alternate, clock_option, ratio, report, settled
from families import FAMILIES, opened_on
from safetensors.torch import load_file
from torch import nn

from vita_core import build_tower
from vita_core.towers.tower import BaseVisionTower

GOAL = 1.3


def touch(module: nn.Module) -> None:
    """Read every value once. This reads the pages of a mapped file into memory."""
    for parameter in module.parameters():
        parameter.sum()


@torch.inference_mode()
def compare(
    name: str, layers: int | None, rounds: int, clock: Callable[[], float], device: str
) -> list[dict[str, Any]]:
    family = FAMILIES[name](**({} if layers is None else {"layers": layers}))
    with tempfile.TemporaryDirectory() as folder:
        family.save(Path(folder))
        (file,) = Path(folder).glob("*.safetensors")
        rows = []
        for dtype in ("float32", "float16"):
            config = {**family.tower, "weights": folder, "layers": "all", "dtype": dtype}
            tower, stored = build_tower(config, device=device), load_file(file)
            held = sum(p.abs().sum(dtype=torch.float64).item() for p in tower.parameters())
            given = sum(t.abs().sum(dtype=torch.float64).item() for key, t in stored.items() if "head." not in key)
            # only the final norm is left out, and nothing is loaded twice
            assert abs(held - given) < 0.005 * given, (held, given)

            def loaded_and_touched(config: dict[str, Any] = config) -> BaseVisionTower:
                tower = build_tower(config, device=device)
                touch(tower)
                return tower

            sides = {
                "ours": lambda config=config: build_tower(config, device=device), "ours, touched": loaded_and_touched,
                "bytes": file.read_bytes,
                "library": lambda dtype=dtype: opened_on(device, family.original, Path(folder), getattr(torch, dtype)),
            }  # fmt: skip
            times = alternate(sides, rounds, clock, settled(device))
            rows.append(
                {
                    "encoder": family.name,
                    "dtype": dtype,
                    "ours / bytes": ratio(times, "ours", "bytes"),
                    "ours, touched / bytes": ratio(times, "ours, touched", "bytes"),
                    "ours / library": ratio(times, "ours", "library"),
                    "file, MB": file.stat().st_size / 1e6,
                    "ours, s": min(times["ours"]),
                    "bytes, s": min(times["bytes"]),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Measure CLIP only, with 6 layers and 9 rounds.")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="load", help="Name of the result file.")
    clock_option(parser)
    arguments = parser.parse_args()
    families, layers, rounds = arguments.families, None, arguments.rounds
    if arguments.quick:
        families, layers, rounds = ["clip"], 6, 9
    rows = [row for name in families for row in compare(name, layers, rounds, arguments.clock, arguments.device)]
    report(
        arguments.name, f"warm loading, goal: at most {GOAL}x of reading the bytes", list(rows[0]), rows, goal=GOAL,
        layers=layers or "all", device=arguments.device, threads=torch.get_num_threads(),
        clock=arguments.clock.__name__, torch=torch.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
