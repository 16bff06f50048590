"""One loader for every command that reads many pictures: order, bounded memory, errors, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import vita
from PIL import Image
from safetensors.torch import load_file

from vita_core import build_tower
from vita_core.config.schema import ImagesConfig
from vita_core.errors import PictureError
from vita_core.models.pictures import Prepared, prepare
from vita_core.pixels.images import open_picture
from vita_core.pixels.prefetching import prefetched


@pytest.fixture
def four_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_nothing_is_copied_for_a_cpu() -> None:
    pixels = torch.rand(1, 3, 8, 8)
    assert Prepared(pixels, (8, 8)).copied(torch.device("cpu")).pixels is pixels


@pytest.mark.parametrize(("count", "batch"), [(0, 3), (1, 3), (7, 3), (9, 3), (4, 1)])
def test_order_is_kept_in_lists_of_a_batch(four_threads: object, count: int, batch: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    with prefetched(range(count), slow_first, batch=batch) as batches:
        found = list(batches)
    assert [value for part in found for value in part] == [item * item for item in range(count)]
    assert [len(part) for part in found[:-1]] == [batch] * max(0, len(found) - 1)


def test_the_next_are_loaded_while_these_are_used_and_no_more_than_two_lists(four_threads: object) -> None:
    loaded: list[int] = []
    with prefetched(range(100), loaded.append, batch=2) as batches:
        next(batches)
        wait_for(lambda: len(loaded) == 6)
        time.sleep(0.05)
        assert sorted(loaded) == list(range(6))
        next(batches)
        wait_for(lambda: len(loaded) == 8)


def test_as_many_threads_as_torch_uses_each_with_one_of_torchs(four_threads: object) -> None:
    together = threading.Barrier(4)

    def meet(item: int) -> int:
        together.wait(timeout=10)
        return torch.get_num_threads()

    with prefetched(range(4), meet, batch=4) as batches:
        assert next(batches) == [1, 1, 1, 1]
        assert torch.get_num_threads() == 4
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


def test_an_error_names_the_file_in_its_turn_and_ends_the_loading(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:40])
    begun: list[Path] = []

    def load(path: Path) -> Image.Image:
        begun.append(path)
        return open_picture(path)

    with pytest.raises(PictureError, match=str(paths[3])), prefetched(paths, load, batch=2) as batches:  # noqa: PT012  # raised by the loop
        assert len(next(batches)) == 2
        next(batches)
    assert len(begun) <= 8


def test_leaving_begins_nothing_more(four_threads: object) -> None:
    begun: list[int] = []

    def slow(item: int) -> None:
        begun.append(item)
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt), prefetched(range(100), slow, batch=12) as batches:  # noqa: PT012  # raised by the loop
        next(batches)
        raise KeyboardInterrupt
    count = len(begun)
    time.sleep(0.2)
    assert len(begun) == count < 36
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.slow
def test_ctrl_c_ends_a_command_at_once() -> None:
    """A process that would read for minutes ends with the signal, its threads with it."""
    code = (
        "import time\nfrom vita_core.pixels.prefetching import prefetched\n"
        "with prefetched(range(10_000), lambda item: time.sleep(0.1), batch=8) as batches:\n"
        "    print('reading', flush=True)\n    for _ in batches: pass\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "reading\n"
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=20)
    assert child.returncode == -signal.SIGINT
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_encode_of_many_pictures(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    """More than a batch, one of them named twice: in the order as typed, each as by itself."""
    names = ["wide.png", "tall.png", "square.png"] * 4
    pictures = [tmp_path / f"{number}-{name}" for number, name in enumerate(names)]
    for picture, name in zip(pictures, names, strict=True):
        picture.write_bytes((golden / "pictures" / name).read_bytes())
    out = tmp_path / "features.safetensors"
    done = vita("encode", tiny_config, *pictures, pictures[0], "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert [row["picture"] for row in json.loads(done.stdout)["pictures"]] == [str(picture) for picture in pictures]
    features = load_file(out)
    tower = build_tower({"weights": str(golden / "clip")})
    with torch.inference_mode():
        for picture in pictures:
            alone = tower(prepare(tower, ImagesConfig(), picture).pixels)
            torch.testing.assert_close(features[str(picture)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_encode_tells_of_a_damaged_picture_and_writes_nothing(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    good, bad, out = golden / "pictures" / "wide.png", tmp_path / "bad.png", tmp_path / "features.safetensors"
    bad.write_bytes(good.read_bytes()[:300])
    done = vita("encode", tiny_config, good, bad, good, "--out", out)
    assert done.returncode == 2
    assert f"error: {bad}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def wait_for(true: object) -> None:
    assert callable(true)
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "did not happen in 10 seconds"
        time.sleep(0.005)
