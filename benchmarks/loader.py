"""Measure how busy the prefetching loader keeps a tower: 200 real photos through a ViT-S/16, the smallest tower in use.

``--encoder`` selects another tower.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from common import alternate, ratio, report, settled
from families import FAMILIES
from photos import write_photos
from safetensors.torch import save_file

from vita_core import build_tower
from vita_core.config.schema import ImagesConfig
from vita_core.models.pictures import prepare
from vita_core.pixels.prefetching import prefetched
from vita_core.towers.tower import BaseVisionTower

GOAL, BATCH, NAME = 0.9, 8, "vit_small_patch16_224"
Loader = Callable[..., AbstractContextManager[Iterable[list[torch.Tensor]]]]


@contextmanager
def one_after_the_other(
    paths: list[Path], load: Callable[[Path], torch.Tensor], *, batch: int
) -> Iterator[Iterable[list[torch.Tensor]]]:
    yield ([load(path) for path in paths[at : at + batch]] for at in range(0, len(paths), batch))


class Run:
    """Send all photos through the tower. `shares` holds, for each run, the share of the time in which the tower worked."""

    def __init__(self, tower: BaseVisionTower, paths: list[Path], loader: Loader) -> None:
        self.tower, self.paths, self.loader, self.shares = tower, paths, loader, list[float]()
        self.settle = settled(tower.device.type)

    def load(self, path: Path) -> torch.Tensor:
        return prepare(self.tower, ImagesConfig(), path).copied(self.tower.device).pixels

    @torch.inference_mode()
    def __call__(self) -> torch.Tensor:
        found, busy, start = [], 0.0, time.perf_counter()
        with self.loader(self.paths, self.load, batch=BATCH) as batches:
            for pixels in batches:
                begin = time.perf_counter()
                found.append(self.tower(torch.cat(pixels)))
                self.settle()
                busy += time.perf_counter() - begin
        self.shares.append(busy / (time.perf_counter() - start))
        return torch.cat(found)


def compare(config: dict[str, Any], device: str, paths: list[Path], preprocess: str, rounds: int) -> dict[str, object]:
    tower = build_tower({**config, "preprocess": preprocess, "dtype": "auto"}, device=device)
    plain, ahead = Run(tower, paths, one_after_the_other), Run(tower, paths, prefetched)
    pixels = [plain.load(path) for path in paths]

    @torch.inference_mode()
    def alone() -> torch.Tensor:
        return torch.cat([tower(torch.cat(pixels[at : at + BATCH])) for at in range(0, len(pixels), BATCH)])

    expected = alone()
    for run in (plain, ahead):
        torch.testing.assert_close(run(), expected)
        run.shares.clear()
    times = alternate({"alone": alone, "plain": plain, "ahead": ahead}, rounds, settle=plain.settle)
    return {
        "preprocess": preprocess,
        "photos": len(paths),
        "busy": min(ahead.shares),
        "busy without it": min(plain.shares),
        "ahead / tower alone": ratio(times, "ahead", "alone"),
        "ahead / plain": ratio(times, "ahead", "plain"),
        "photos/s": len(paths) / min(times["ahead"]),
    }


def smallest(folder: Path) -> dict[str, Any]:
    """Save a ViT-S/16 with random weights in `folder`, and return its tower config."""
    torch.manual_seed(0)
    save_file(timm.create_model(NAME, pretrained=False).state_dict(), folder / "model.safetensors")
    return {"type": "timm", "options": {"architecture": NAME}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Use 16 photos, `exact` only, and 2 rounds.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoder", choices=list(FAMILIES), help="Use this encoder instead of the ViT-S/16.")
    parser.add_argument("--device", default="cpu", help="Device. It uses bfloat16 if it has units for it.")
    parser.add_argument("--name", default="loader", help="Name of the result file.")
    arguments = parser.parse_args()
    count, rounds, ways = (16, 2, ("exact",)) if arguments.quick else (200, arguments.rounds, ("exact", "fast"))
    with tempfile.TemporaryDirectory() as weights, tempfile.TemporaryDirectory() as folder:
        if arguments.encoder is None:
            config = smallest(Path(weights))
        else:
            family = FAMILIES[arguments.encoder]()
            family.save(Path(weights))
            config = family.tower
        paths = write_photos(Path(folder), count)
        rows = [compare({**config, "weights": weights}, arguments.device, paths, how, rounds) for how in ways]
    claim = f"share of time that the tower ({arguments.encoder or NAME}) is busy, goal: at least {GOAL:.0%}"
    report(
        arguments.name, claim, list(rows[0]), rows, goal=GOAL, device=arguments.device,
        threads=torch.get_num_threads(), torch=torch.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()
