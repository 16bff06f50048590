"""`compile`, `max_batch`, `attention` and `dtype: auto`: the same features, and what cannot work is told before weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, GOLDEN, close, golden_settings
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vita_core import build_tower, list_towers
from vita_core.errors import ConfigError, VitaError
from vita_core.loading import without_weights
from vita_core.towers import devices
from vita_core.towers.tower import BaseVisionTower

TOWERS = sorted(tower.name for tower in list_towers() if tower.name != "fused")  # its parts have these keys


class Counted:
    """A tower whose encoder notes how many pictures each of its runs had."""

    def __init__(self, tower: BaseVisionTower, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[int] = []
        encode = type(tower).encode

        def noted(self_: Any, pixels: Tensor, layers: Any) -> Any:
            self.runs.append(len(pixels))
            return encode(self_, pixels, layers)

        monkeypatch.setattr(type(tower), "encode", noted)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_max_batch_changes_no_feature(
    tower_examples: dict[str, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, limited = (build_tower({**tower_examples[name], **change}) for change in ({}, {"max_batch": 2}))
    height, width = tower.resolved.geometry.input_size
    pixels = torch.rand(5, 3, height, width)
    counted = Counted(limited, monkeypatch)
    found = limited(pixels)
    assert counted.runs == [2, 2, 1]
    torch.testing.assert_close(found, torch.cat([tower(picture[None]) for picture in pixels]), atol=1e-5, rtol=1e-5)
    assert [part.shape[0] for part in limited(list(pixels))] == [1] * 5
    assert limited(pixels[:0]).shape == (0, *found.shape[1:])


def test_the_crops_of_all_scales_and_pictures_fill_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_file(GOLDEN / "siglip_s2" / "expected.safetensors")
    tower = build_tower({**golden_settings("siglip_s2"), "max_batch": 8})
    counted = Counted(tower, monkeypatch)
    close(tower(expected["pixel_values"]), expected["features"])
    crops = 14 * len(expected["pixel_values"])
    assert counted.runs == [8] * (crops // 8) + [crops % 8] * (crops % 8 > 0)


def test_without_max_batch_a_cpu_runs_what_its_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, pixels = golden_settings("clip"), torch.rand(6, 3, 56, 56)
    tower = build_tower(settings)
    counted = Counted(tower, monkeypatch)
    whole = tower(pixels)
    monkeypatch.setattr(devices, "LEAST_ROWS", 0)
    monkeypatch.setattr(devices, "CACHED_BYTES", 2 * 16 * 32 * 4 / torch.get_num_threads())  # two hidden states
    torch.testing.assert_close(tower(pixels), whole)
    larger = tower(torch.rand(2, 3, 112, 112))  # one hidden state of this size is as large as four
    assert larger.shape[0] == 2
    assert counted.runs == [6, 2, 2, 2, 1, 1]


def test_pictures_at_once() -> None:
    from vita_core.plugins.specs import Shape

    threads, pixels = torch.get_num_threads(), torch.empty(999, 3, 64, 64)
    heavy = Shape.from_stages((64, 64), [(1024, (32, 32), 1000, 10**9)])  # 4 MiB, each weight used often
    assert devices.pictures_at_once(pixels, heavy, heavy.stages) == max(1, threads // 2)
    light = Shape.from_stages((64, 64), [(1024, (32, 32), 10**6, 7 * 10**7)])  # each weight used 70 times
    assert devices.pictures_at_once(pixels, light, light.stages) == 10 * threads
    assert devices.pictures_at_once(pixels.to("meta"), heavy, heavy.stages) == 999


def test_what_is_trained_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = build_tower({**golden_settings("clip"), "max_batch": 2, "freeze": False})
    counted = Counted(tower, monkeypatch)
    tower(torch.rand(3, 3, 56, 56)).sum().backward()
    with torch.no_grad():
        tower(torch.rand(3, 3, 56, 56))
    assert counted.runs == [3, 2, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_eager_attention_gives_the_same(name: str) -> None:
    expected = load_file(GOLDEN / name / "expected.safetensors")
    tower = build_tower({**golden_settings(name), "attention": "eager"})
    torch.testing.assert_close(tower(expected["pixel_values"]), expected["features"], atol=2e-5, rtol=1e-5)


def test_eager_attention_is_the_one_that_runs(
    tower_examples: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("fused attention ran")

    for name in ("clip", "siglip", "internvit", "eva_clip", "timm"):
        fused, eager = (build_tower({**tower_examples[name], "attention": kind}) for kind in ("auto", "eager"))
        pixels = torch.rand(1, 3, *fused.resolved.geometry.input_size)
        with monkeypatch.context() as patched:
            patched.setattr(torch.nn.functional, "scaled_dot_product_attention", refused)
            eager(pixels)
            with pytest.raises(AssertionError, match="fused attention ran"):
                fused(pixels)


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        ("torchvision", "eager", r"tower 'torchvision' does not support 'eager'. Try: `tower.attention: auto`"),
        ("timm", "flex_attention", r"tower 'timm' does not support 'flex_attention'. Try: one of auto, sdpa, eager"),
        ("clip", "flash_attention_2", r"flash_attention_2 needs a CUDA device .*Try: `tower.attention: auto`"),
    ],
)
def test_attention_that_cannot_be(
    tower_examples: dict[str, dict[str, Any]], name: str, attention: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_tower({**tower_examples[name], "attention": attention})


def test_dtype_auto_is_what_the_device_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**golden_settings("clip"), "dtype": "auto"}
    flags = Path("/proc/cpuinfo")
    has = flags.is_file() and bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.read_text().split()))
    waiting = build_tower({**settings, "delay_load": True})
    assert waiting.dtype == (torch.bfloat16 if has else torch.float32)
    waiting.load_model()
    assert {parameter.dtype for parameter in waiting.parameters()} == {waiting.dtype}
    assert devices.dtype_on("auto", torch.device("mps")) == torch.float32
    assert devices.dtype_on("float16", torch.device("cpu")) == torch.float16


def test_dtype_auto_reads_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    for line, has in [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16", False),
    ]:
        file.write_text(f"processor\t: 0\n{line}\n\n")
        assert devices.multiplies_bfloat16(file) is has
    assert devices.multiplies_bfloat16(tmp_path / "none") is False


@pytest.mark.slow
def test_compiled_blocks_give_the_same_and_leave_the_tower_as_it_was(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    expected = load_file(GOLDEN / "internvit" / "expected.safetensors")
    settings = {**golden_settings("internvit"), "compile": True, "freeze": {"from_layer": 4}}
    plain, tower = build_tower({**settings, "compile": False}), build_tower(settings)
    with torch.inference_mode():
        close(tower(expected["pixel_values"]), expected["features"])
    assert all(block._compiled_call_impl is not None for block in tower.vision_tower.encoder.layer)
    assert list(tower.state_dict()) == list(plain.state_dict())
    assert [p.requires_grad for p in tower.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert (tower.num_tokens, tower.hidden_size, tower.grid) == (plain.num_tokens, plain.hidden_size, plain.grid)
    with torch.inference_mode():
        close(copy.deepcopy(tower)(expected["pixel_values"]), expected["features"])
    save_file(tower.vision_tower.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((GOLDEN / "internvit" / "config.json").read_bytes())
    close(build_tower({"weights": str(tmp_path)})(expected["pixel_values"]), expected["features"])


def test_quick_gelu_in_one_buffer_is_the_same_to_the_bit() -> None:
    from transformers.activations import QuickGELUActivation

    tower = build_tower(golden_settings("clip"))
    (activation,) = {type(block.mlp.activation_fn) for block in tower.vision_tower.encoder.layers}
    assert activation is not QuickGELUActivation
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)
        expected, before = QuickGELUActivation()(x), x.clone()
        with torch.inference_mode():
            assert torch.equal(activation()(x), expected)
        assert torch.equal(x, before)
        x.requires_grad_(True)
        assert torch.equal(activation()(x), expected)
        activation()(x).sum().backward()


@pytest.mark.extras  # torch.compile takes its time
def test_compiled_blocks_are_trained_as_plain_ones() -> None:
    pixels = load_file(GOLDEN / "clip" / "expected.safetensors")["pixel_values"]
    gradients = []
    for compiling in (False, True):
        tower = build_tower({**golden_settings("clip"), "compile": compiling, "freeze": {"from_layer": 2}}).train()
        tower(pixels).square().mean().backward()
        gradients.append({name: p.grad for name, p in tower.named_parameters() if p.grad is not None})
    plain, compiled = gradients
    assert len(plain) == 32, sorted(plain)
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)  # keys' gradients cancel: float32 leaves 2e-7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"), [("clip", True), ("open_clip", True), ("siglip", True), ("timm", True), ("torchvision", False)]
)
def test_blocks_that_are_alike_are_compiled_one_for_all(
    tower_examples: dict[str, dict[str, Any]], name: str, blocks: bool
) -> None:
    tower = build_tower({**tower_examples[name], "compile": True})
    inner = [module for module in tower.modules() if module._compiled_call_impl is not None]
    assert len(inner) == (tower.blocks if blocks else 0)
    assert len({type(module) for module in inner}) == blocks


def test_a_cpu_without_a_compiler_is_told_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    waiting = build_tower({**golden_settings("clip"), "compile": True, "delay_load": True})
    with pytest.raises(
        ConfigError, match=r"C\+\+ compiler on a CPU, but 'no-such-compiler' is not found. Try: install one"
    ):
        waiting.load_model()
    assert not waiting.is_loaded


@pytest.mark.slow
def test_what_torch_compile_raises_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(broken)))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    tower = build_tower({**golden_settings("siglip"), "compile": True})
    with pytest.raises(
        VitaError, match=r"tower.compile: torch.compile failed on tower 'siglip': .*Try: `tower.compile: false`"
    ):
        tower(torch.rand(1, 3, 56, 56))


def test_a_fused_tensor_that_is_split_is_not_copied() -> None:
    attention = build_tower(golden_settings("internvit")).vision_tower.encoder.layer[0].attention
    parts = [getattr(attention, f"{name}_proj").weight for name in "qkv"]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1


def test_building_an_encoder_works_no_values_out() -> None:
    """torch fills tensors on the meta device in Python: it was two thirds of the time to load a tower."""
    ran: list[str] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            ran.append(func.name())
            return func(*args, **(kwargs or {}))

    with Noted(), without_weights():
        linear = torch.nn.Linear(4, 4)
        torch.nn.init.trunc_normal_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        real = torch.zeros(3).fill_(2.0)
    assert linear.weight.is_meta
    assert real.tolist() == [2.0] * 3
    assert "aten::fill_.Scalar" in ran
    assert not [name for name in ran if "normal" in name or "uniform" in name or "zero_" in name]
