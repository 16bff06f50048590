"""Choices that depend on the device: the dtype, how many pictures run at once, copying, and compiling."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.errors import ConfigError, VitaError
from vita_core.pixels.fused import Pixels
from vita_core.plugins.specs import Shape, Stage

__all__ = [
    "check_usable",
    "compile_blocks",
    "compile_errors",
    "compiled",
    "copied",
    "dtype_on",
    "multiplies_bfloat16",
    "pick_device",
    "pictures_at_once",
]

CACHED_BYTES = 2 * 2**20
"""The most bytes per thread that the widest hidden state may take in one run on a CPU. Inside a block it grows four- to
eightfold, and beyond the last cache each picture takes longer (docs/performance.md)."""
LEAST_ROWS = 700
"""The fewest multiply-accumulates per weight and thread. With fewer, reading the weights takes a noticeable time."""
CPU_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""The flags in ``/proc/cpuinfo`` of CPUs that have units for bfloat16 (x86 and Arm)."""


def dtype_on(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype called `name`; ``auto`` is bfloat16 on a device that has units for it, and float32 otherwise.

    On a CPU without such units, a matrix product in bfloat16 takes over a hundred times as long. Devices other than CPUs
    and CUDA devices are assumed to have none.
    """
    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    return torch.bfloat16 if _has_bfloat16(device.type) else torch.float32


@functools.cache
def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind in ("cpu", "meta") and multiplies_bfloat16()  # a tower built on the meta device is loaded to the CPU


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the flags in `cpuinfo` say that this CPU has units for bfloat16. Without the file, return False."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    found = [line.partition(":") for line in lines]
    return any(name.strip() in ("flags", "Features") and CPU_BFLOAT16 & set(said.split()) for name, _, said in found)


def pictures_at_once(pixels: Tensor, shape: Shape, stages: Sequence[Stage]) -> int:
    """Return how many of `pixels` (M, 3, H, W) should run at once through `stages` if the config does not say so.

    `stages` are the first ones of `shape`, whose numbers are those of one picture (or video) of its size. On a GPU, all
    pictures run at once. On a CPU, it is the larger of two numbers: as many pictures as keep the hidden states in the
    cache, and enough pictures to make reading each weight worthwhile (the larger one for a CNN).
    """
    if pixels.device.type != "cpu":
        return len(pixels)
    larger = pixels.shape[-2] * pixels.shape[-1] / (shape.image_size[0] * shape.image_size[1])
    values = max(stage.channels * stage.grid[0] * stage.grid[1] for stage in stages) * shape.steps
    widest = values * larger * pixels.element_size()
    rows = larger * sum(stage.macs for stage in stages) / max(1, sum(stage.parameters for stage in stages))
    return max(1, round(torch.get_num_threads() * max(CACHED_BYTES / widest, LEAST_ROWS / max(1, rows))))


def copied(pixels: Pixels, device: torch.device) -> Pixels:
    """Return a copy of `pixels` on a CUDA `device`. For any other device, return `pixels` unchanged.

    The copy goes through pinned memory and a stream of its own, so that a thread can copy while the device computes. The
    call returns when the copy is done. Use the result on the device's default stream.
    """
    if device.type != "cuda" or pixels.device.type != "cpu":
        return pixels
    used = torch.cuda.default_stream(device)
    with torch.cuda.stream(_copies(device)):
        there = pixels.pin_memory().to(device, non_blocking=True)
    _copies(device).synchronize()
    there.record_stream(used)  # or the next copy could take its memory while the tower still reads it
    return there


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def check_usable(attention: str, compiling: bool, device: torch.device) -> None:
    """Raise ConfigError for settings that would only fail at the first picture.

    These are flash attention that is not installed (transformers would download it), and ``compile: true`` on a CPU
    without a C++ compiler (searched for as torch does).
    """
    if attention == "flash_attention_2" and (device.type != "cuda" or importlib.util.find_spec("flash_attn") is None):
        raise ConfigError(
            "tower.attention: flash_attention_2 needs a CUDA device and the package flash-attn. "
            "Try: `tower.attention: auto`, which uses torch's own fused attention"
        )
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    wanted = os.environ.get("CXX", usual)
    if compiling and device.type == "cpu" and shutil.which(wanted) is None:
        raise ConfigError(
            f"tower.compile: true needs a C++ compiler on a CPU, but {wanted!r} is not found. Try: install one "
            "(`apt-get install g++`), set the environment variable CXX to yours, or `tower.compile: false`"
        )


def compile_blocks(encoder: nn.Module) -> bool:
    """Compile the encoder's blocks with torch.compile, and return whether that was possible.

    It is possible if the blocks are alike and make up most of the encoder. One block is then compiled for all of them.
    The state dict, freezing and saving are not affected. Otherwise nothing is compiled.
    """
    lists = [part for part in encoder.modules() if isinstance(part, nn.ModuleList | nn.Sequential) and len(part)]
    blocks = max(lists, key=_size, default=None)
    if blocks is None or 2 * len([*blocks.modules()]) < len([*encoder.modules()]):
        return False
    if len({(type(block), tuple(p.shape for p in block.parameters())) for block in blocks}) > 1:
        return False
    for block in blocks:
        block.compile()
    return True


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@functools.cache
def compiled(encode: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `encode` function of a tower class, compiled with torch.compile, for encoders without equal blocks.

    There is one per class, not one per tower, so that a tower holds nothing that cannot be copied or pickled.
    """
    return torch.compile(encode)


@contextmanager
def compile_errors(tower: str, expected: bool) -> Iterator[None]:
    """Raise errors of torch.compile as VitaErrors while compiled code runs. Do nothing unless `expected`."""
    if not expected:
        yield
        return
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        yield
    except BackendCompilerFailed as error:
        reason = str(error).strip().splitlines()[0]
        raise VitaError(
            f"tower.compile: torch.compile failed on tower {tower!r}: {reason}. Try: `tower.compile: false`"
        ) from error


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is the first accelerator, or the CPU if there is none.

    Raises ConfigError for a device that this machine does not have.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # this also fails on `meta`, which holds no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        # torch raises one or the other, depending on the device
        first = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"device: {name!r} cannot be used here: {first.rstrip('.')}. Try: `device: auto` or `device: cpu`"
        ) from error
    return device
