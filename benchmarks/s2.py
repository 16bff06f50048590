"""Time S2's crops and a picture's tiles in common runs of the encoder, compared with one scale or one tile at a time."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import alternate, clock_option, ratio, report, settled
from families import FAMILIES, Forward, assert_alike, opened_on
from torch import Tensor

from vita_core import build_tower

Scales = tuple[int, ...]


def scale_by_scale(pixels: Tensor, encode: Forward, base: int, scales: Scales) -> Tensor:
    """Run S2 as its authors do: cut, encode, merge and pool one scale after the other."""
    found = []
    for side in scales:
        scaled = F.interpolate(pixels, size=(side * base, side * base), mode="bicubic")
        rows = [torch.cat(row.split(base, dim=3)) for row in scaled.split(base, dim=2)]
        tokens = encode(torch.cat(rows))  # (side * side * B, N, C), crop-major
        size = round(tokens.shape[1] ** 0.5)
        maps = [part.unflatten(1, (size, size)) for part in tokens.chunk(side * side)]
        whole = torch.cat([torch.cat(maps[r * side : (r + 1) * side], dim=2) for r in range(side)], dim=1)
        found.append(F.interpolate(whole.permute(0, 3, 1, 2), size=(size, size), mode="area"))
    return torch.cat(found, dim=1).flatten(2).transpose(1, 2)


@torch.inference_mode()
def s2(layers: int, scales: Scales, rounds: int, clock: Callable[[], float], device: str) -> list[dict[str, object]]:
    family = FAMILIES["siglip"](layers=layers)
    base, crops = family.side, sum(side**2 for side in scales)
    with tempfile.TemporaryDirectory() as folder:
        family.save(Path(folder))
        config = {
            **family.tower,
            "weights": folder,
            "s2": {"scales": [side * base for side in scales]},
            "dtype": "auto",
        }
        together, full = (build_tower(c, device=device) for c in (config, {**config, "max_batch": crops}))
        plain = opened_on(device, family.best, Path(folder), together.dtype)
        pixels = torch.rand(1, 3, scales[-1] * base, scales[-1] * base).to(device, together.dtype)
        expected = scale_by_scale(pixels, plain, base, scales)
        for tower in (together, full):
            assert_alike(tower(pixels), expected)
        sides = {
            "together": lambda: together(pixels), "one batch": lambda: full(pixels),
            "loop": lambda: scale_by_scale(pixels, plain, base, scales),
        }  # fmt: skip
        times = alternate(sides, rounds, clock, settled(device))
    what = f"S2, {crops} crops of {base}"
    return [
        {"what": what, "max_batch": "left out", "together / loop": ratio(times, "together", "loop")},
        {"what": what, "max_batch": "all", "together / loop": ratio(times, "one batch", "loop")},
    ]


@torch.inference_mode()
def tiles(layers: int, count: int, rounds: int, clock: Callable[[], float], device: str) -> list[dict[str, object]]:
    family = FAMILIES["internvit"](layers=layers)
    with tempfile.TemporaryDirectory() as folder:
        family.save(Path(folder))
        tower = build_tower({**family.tower, "weights": folder, "dtype": "auto"}, device=device)
        plain = opened_on(device, family.best, Path(folder), tower.dtype)
        pixels = torch.rand(count, 3, family.side, family.side).to(device, tower.dtype)
        assert_alike(tower(pixels), torch.cat([plain(tile[None]) for tile in pixels]))
        sides = {
            "together": lambda: tower(pixels), "library": lambda: plain(pixels),
            "loop": lambda: torch.cat([plain(tile[None]) for tile in pixels]),
        }  # fmt: skip
        times = alternate(sides, rounds, clock, settled(device))
    what = f"{count} tiles of {family.side}"
    return [
        {"what": what, "max_batch": "left out", "together / loop": ratio(times, "together", "loop")},
        {"what": what, "max_batch": "the library's one batch", "together / loop": ratio(times, "library", "loop")},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Use two layers, two scales, 2 tiles and 2 rounds.")
    parser.add_argument("--layers", type=int, default=5, help="Number of layers of each encoder.")
    parser.add_argument(
        "--scales", type=int, nargs="+", default=[1, 2, 3], help="Scales, as multiples of the encoder's picture size."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="Device. It uses bfloat16 if it has units for it.")
    parser.add_argument("--name", default="s2", help="Name of the result file.")
    clock_option(parser)
    arguments = parser.parse_args()
    layers, rounds = (2, 2) if arguments.quick else (arguments.layers, arguments.rounds)
    scales, count = ((1, 2), 2) if arguments.quick else (tuple(arguments.scales), 7)
    how = (rounds, arguments.clock, arguments.device)
    rows = s2(layers, scales, *how) + tiles(layers, count, *how)
    report(
        arguments.name, "all crops and tiles together, goal: never slower than one after the other", list(rows[0]), rows,
        goal=1.0, layers=layers, device=arguments.device, threads=torch.get_num_threads(),
        clock=arguments.clock.__name__, torch=torch.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
