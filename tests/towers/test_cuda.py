"""On a CUDA device: the originals' outputs, half precision, compiling, memory, copies made ahead. Skipped without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, GOLDEN, golden_settings, vita
from safetensors.torch import load_file

from vita_core import build_model, build_tower
from vita_core.config.schema import ImagesConfig
from vita_core.models.pictures import Prepared, prepare
from vita_core.pixels.prefetching import prefetched

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def true_float32() -> Iterator[None]:
    """torch convolves float32 in TF32 by default, which has ten bits of mantissa."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_originals(name: str) -> None:
    expected = load_file(GOLDEN / name / "expected.safetensors")
    tower = build_tower(golden_settings(name), device=CUDA)
    assert {tensor.device.type for tensor in (*tower.parameters(), *tower.buffers())} == {"cuda"}
    found = tower(expected["pixel_values"])
    assert (found.device.type, found.dtype) == ("cuda", torch.float32)
    torch.testing.assert_close(found.cpu(), expected["features"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_auto_is_bfloat16_and_keeps_its_stated_error(name: str, compiling: bool) -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("the device has no units for bfloat16")
    expected = load_file(GOLDEN / name / "expected.safetensors")
    tower = build_tower({**golden_settings(name), "dtype": "auto", "compile": compiling}, device=CUDA)
    assert tower.dtype == torch.bfloat16
    off = (tower(expected["pixel_values"]).cpu() - expected["features"]).abs().max()
    assert off <= 0.03 * expected["features"].abs().max()


def test_loading_takes_the_weights_and_no_more() -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    tower = build_tower({**golden_settings("internvit"), "dtype": "float16"}, device=CUDA)
    parts = [*tower.parameters(), *tower.buffers()]
    rounded = sum(512 * -(-part.numel() * part.element_size() // 512) for part in parts)  # the allocator's least block
    assert torch.cuda.max_memory_allocated() - before <= 1.15 * rounded


def test_pictures_are_copied_ahead_and_stay_until_they_are_used() -> None:
    tower = build_tower(golden_settings("clip"), device=CUDA)
    names = ["wide", "tall", "square"] * 20
    expected, found = load_file(GOLDEN / "clip" / "expected.safetensors"), []

    def read(name: str) -> tuple[str, torch.Tensor]:
        return name, prepare(tower, ImagesConfig(), GOLDEN / "pictures" / f"{name}.png").copied(CUDA).pixels

    with prefetched(names, read, batch=2) as batches:
        for batch in batches:
            for name, there in batch:
                assert there.device.type == "cuda"
                torch.cuda._sleep(10_000_000)  # the device is behind when `there` is let go and the next is copied
                found.append((name, there[0] + 0))
    assert [name for name, _ in found] == names
    for name, pixels in found:
        torch.testing.assert_close(pixels.cpu(), expected[f"pixels.{name}"], atol=1e-6, rtol=0)


def test_a_copy_does_not_wait_for_what_the_device_works_on() -> None:
    pixels = torch.rand(4, 3, 56, 56)
    Prepared(pixels, (56, 56)).copied(CUDA)  # the first makes the stream and the pinned memory
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    worked = torch.cuda.Event()
    worked.record()
    there = Prepared(pixels, (56, 56)).copied(CUDA).pixels
    assert not worked.query()
    assert torch.equal(there.cpu(), pixels)


@pytest.mark.parametrize("name", ["wide", "tall", "square"])
def test_a_vita_checkpoint_answers_as_the_original(name: str) -> None:
    expected = json.loads((GOLDEN / "vita15" / "expected_answers.json").read_text())[name]
    model = build_model(checkpoint=GOLDEN / "vita15")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cuda"}  # device: auto
    picture, said = GOLDEN / "pictures" / f"{name}.png", {"system": "You are a helpful assistant."}
    answer = model.ask(picture, "Describe this images.", **said, max_new_tokens=12)
    assert answer.token_ids == expected["generated_ids"]
    together = model.ask_each(
        [picture, GOLDEN / "pictures" / "wide.png"], "Describe this images.", **said, max_new_tokens=12
    )
    assert together[0].token_ids == expected["generated_ids"]


def test_the_towers_time_is_told_as_its_own() -> None:
    model = build_model(checkpoint=GOLDEN / "vita15")
    model.ask(GOLDEN / "pictures" / "wide.png", max_new_tokens=2)
    model.tower.register_forward_hook(lambda *_: torch.cuda._sleep(2_000_000_000))  # cycles: about a second
    timings = model.ask(GOLDEN / "pictures" / "wide.png", max_new_tokens=2).timings
    assert timings["tower"] > 0.5 > timings["generate"]


def test_the_commands_run_on_it(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    out, trained = tmp_path / "out.safetensors", tmp_path / "trained"
    on_gpu = ["--set", "device=cuda"]
    done = vita("encode", tiny_config, GOLDEN / "pictures" / "wide.png", "--out", out, *on_gpu)
    assert done.returncode == 0, done.stderr
    (found,) = load_file(out).values()
    expected = load_file(GOLDEN / "clip" / "expected.safetensors")["features.wide"]
    assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()  # TF32's patch embedding
    few = "training={steps: 4, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1, held_out: 0.25}"
    done = vita("train", tiny_config, "--data", captioned, "--out", trained, "--set", few, *on_gpu)
    assert done.returncode == 0, done.stderr
    done = vita("run", trained, "--images", captioned.parent, "--jsonl", tmp_path / "answers.jsonl", *on_gpu)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == ["square.png", "tall.png", "wide.png"]
    assert all("answer" in row for row in rows)
