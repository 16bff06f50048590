"""What a device is good for: its dtype, how many pictures it runs at once, and compiling for it."""

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
from vita_core.plugins.specs import Stage

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
"""Of the widest hidden state, for each thread, that a CPU runs at once: inside a block it widens four- to eightfold, and
past the last cache each picture takes longer (docs/performance.md)."""
LEAST_ROWS = 700
"""Multiply-accumulates for each weight, for each thread, below which reading the weights is felt."""
CPU_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Flags of ``/proc/cpuinfo`` that say a CPU multiplies bfloat16 itself (x86, then Arm)."""


def dtype_on(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; ``auto`` is bfloat16 on a device that has units for it, else float32.

    Without them a matrix product in bfloat16 takes over a hundred times as long on a CPU. Devices other than CPUs and
    CUDA's are taken to have none.
    """
    if name != "auto":
        found: torch.dtype = getattr(torch, name)
        return found
    return torch.bfloat16 if _has_bfloat16(device.type) else torch.float32


@functools.cache
def _has_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind in ("cpu", "meta") and multiplies_bfloat16()  # what is built on the meta device is loaded on the CPU


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has units for bfloat16, by its flags; without the file they are taken to be missing."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    found = [line.partition(":") for line in lines]
    return any(name.strip() in ("flags", "Features") and CPU_BFLOAT16 & set(said.split()) for name, _, said in found)


def pictures_at_once(pixels: Tensor, image_size: tuple[int, int], stages: Sequence[Stage]) -> int:
    """How many of `pixels` (M, 3, H, W) run at once through `stages`, stated for `image_size`, where no config says it.

    A GPU runs all. A CPU runs as many as keep the hidden states in its cache, and enough to make each weight worth
    reading, which for a CNN is the larger number.
    """
    if pixels.device.type != "cpu":
        return len(pixels)
    larger = pixels.shape[-2] * pixels.shape[-1] / (image_size[0] * image_size[1])
    widest = max(stage.channels * stage.grid[0] * stage.grid[1] for stage in stages) * larger * pixels.element_size()
    rows = larger * sum(stage.macs for stage in stages) / max(1, sum(stage.parameters for stage in stages))
    return max(1, round(torch.get_num_threads() * max(CACHED_BYTES / widest, LEAST_ROWS / max(1, rows))))


def copied(pixels: Tensor, device: torch.device) -> Tensor:
    """`pixels` on a CUDA `device`, as they are for any other: through pinned memory and on a stream of their own.

    A thread that reads ahead copies so while the device works on what it has. The call returns when the copy is done; the
    result is to be used on the device's default stream.
    """
    if device.type != "cuda" or pixels.device.type != "cpu":
        return pixels
    used = torch.cuda.default_stream(device)
    with torch.cuda.stream(_copies(device)):
        there = pixels.pin_memory().to(device, non_blocking=True)
    _copies(device).synchronize()
    there.record_stream(used)  # else its memory is given to the next copy while the tower still reads it
    return there


@functools.cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def check_usable(attention: str, compiling: bool, device: torch.device) -> None:
    """Raise ConfigError for what would fail at the first picture: an attention that is not installed (transformers would
    fetch it), ``compile: true`` on a CPU without a C++ compiler (looked for as torch does)."""
    if attention == "flash_attention_2" and (device.type != "cuda" or importlib.util.find_spec("flash_attn") is None):
        raise ConfigError(
            "tower.attention: flash_attention_2 needs a CUDA device and the package flash-attn; use auto, whose "
            "attention is torch's own and fused too"
        )
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    wanted = os.environ.get("CXX", usual)
    if compiling and device.type == "cpu" and shutil.which(wanted) is None:
        raise ConfigError(
            f"tower.compile: true needs a C++ compiler on a CPU, and {wanted!r} is not found; install one "
            f"(apt-get install g++), name one in the environment variable CXX, or leave `compile` out"
        )


def compile_blocks(encoder: nn.Module) -> bool:
    """Have torch.compile run the encoder's blocks, where they are alike and most of it; False where they are not.

    One block is then compiled for all of them, and state dict, freezing and saving know nothing of it.
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
    """`encode`, a tower class's, through torch.compile: for encoders without blocks that are alike.

    One a class, not one a tower: a tower then holds nothing that cannot be copied or pickled.
    """
    return torch.compile(encode)


@contextmanager
def compile_errors(tower: str, expected: bool) -> Iterator[None]:
    """Around a run of something compiled (`expected`): what torch.compile raises is raised as a VitaError."""
    if not expected:
        yield
        return
    from torch._dynamo.exc import BackendCompilerFailed

    try:
        yield
    except BackendCompilerFailed as error:
        reason = str(error).strip().splitlines()[0]
        raise VitaError(
            f"tower.compile: torch.compile failed on tower {tower!r} ({reason}); leave `compile` out"
        ) from error


def pick_device(name: str) -> torch.device:
    """``auto`` is the first accelerator, else the CPU. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # on `meta`, which holds nothing, this fails too
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # torch raises each, by device
        first = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ConfigError(f"device: {name!r} cannot be used here ({first}); use auto or cpu") from error
    return device
