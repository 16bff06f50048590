"""Models that run for long, in several threads, and beside each other: nothing is left behind, and nothing mixes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from vita_core import BaseVisionTower, VitaError, build_model, load_config
from vita_core.config.images import ImagesConfig
from vita_core.models.pictures import prepare
from vita_core.pixels.images import open_picture

ENCODES, ASKS = 1000, 200
MOST_MB = 0.1
"""The most that the memory may grow in 100 calls."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc"),
]


def anonymous_mb() -> float:
    """The memory of this process that is no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def slope(samples: list[float]) -> float:
    """The growth from one sample to the next, by the medians of the first and the last third."""
    third = len(samples) // 3
    first, last = (sorted(part)[third // 2] for part in (samples[:third], samples[-third:]))
    return (last - first) / (len(samples) - third)


@pytest.mark.reliability(
    door="a model",
    fault="1,000 encodes, 200 questions, 200 errors",
    expected="memory grows by less than 0.1 MB in 100; no handle or thread stays",
)
def test_long_runs_leave_nothing(tiny_config: Path, golden: Path) -> None:
    model, picture = build_model(tiny_config), golden / "pictures" / "wide.png"

    @torch.inference_mode()
    def encode() -> None:
        model.tower(prepare(model.tower, model.settings.images, open_picture(picture)).pixels)

    def ask() -> None:
        model.ask(picture, "what is this ?")

    def refused() -> None:
        with pytest.raises(VitaError):
            model.ask(picture.with_name("none.png"), "what is this ?")

    for work, calls in ((encode, ENCODES), (ask, ASKS), (refused, ASKS)):
        for _ in range(calls // 5):  # allocators and caches fill
            work()
        handles, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208  # only the number counts
        samples = []
        for _ in range(20):
            for _ in range(calls // 20):
                work()
            samples.append(anonymous_mb())
        growth = slope(samples) * 100 / (calls // 20)
        assert growth < MOST_MB, (work, growth, samples)
        assert len(os.listdir("/proc/self/fd")) == handles  # noqa: PTH208  # as above
        assert threading.active_count() == threads


@pytest.mark.reliability(
    door="a model",
    fault="eight threads",
    expected="the values and answers of one thread",
)
def test_eight_threads_share_a_model(tiny_config: Path, golden: Path) -> None:
    model = build_model(tiny_config)
    pictures = sorted((golden / "pictures").glob("*.png"))[:3] * 8

    @torch.inference_mode()
    def work(picture: Path) -> tuple[torch.Tensor, str]:
        pixels = prepare(model.tower, model.settings.images, open_picture(picture)).pixels
        return model.tower(pixels), model.ask(picture, "what is this ?").text

    alone = [*map(work, pictures)]
    with ThreadPoolExecutor(8) as pool:
        together = [*pool.map(work, pictures)]
    for (tokens, text), (expected, answer) in zip(together, alone, strict=True):
        torch.testing.assert_close(tokens, expected)
        assert text == answer


@pytest.mark.reliability(
    door="a model",
    fault="two models in one process, used in turns by two threads",
    expected="the answers of each alone",
)
def test_two_models_in_a_process_do_not_mix(tiny_config: Path, golden: Path) -> None:
    picture = golden / "pictures" / "wide.png"
    first = build_model(tiny_config)
    answer = first.ask(picture, "what is this ?").text
    second = build_model(load_config(tiny_config, [f"tower.weights={golden / 'siglip'}"]))
    other = second.ask(picture, "what is this ?").text
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(lambda model: model.ask(picture, "what is this ?").text, [first, second] * 4)
    assert [*texts] == [answer, other] * 4


class Pictures(torch.utils.data.Dataset[torch.Tensor]):
    """The pixels of pictures, prepared where they are loaded."""

    def __init__(self, tower: BaseVisionTower, images: ImagesConfig, files: list[Path]) -> None:
        self.tower, self.images, self.files = tower, images, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> torch.Tensor:
        return prepare(self.tower, self.images, open_picture(self.files[place])).pixels


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.reliability(
    door="a model",
    fault="loaders that fork and spawn",
    expected="the pixels of this process",
)
def test_loaders_prepare_pictures(start: str, tiny_config: Path, golden: Path) -> None:
    model = build_model(tiny_config)
    pictures = Pictures(model.tower, model.settings.images, sorted((golden / "pictures").glob("*.png")))
    model.tower(pictures[0])  # the threads of torch have started
    loaded = DataLoader(pictures, batch_size=None, num_workers=1, multiprocessing_context=start)
    found = [*loaded]
    assert len(found) == len(pictures) > 2
    assert all(torch.equal(one, pictures[place]) for place, one in enumerate(found))
