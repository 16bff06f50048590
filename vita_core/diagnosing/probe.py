"""Import the libraries and run a small tower on each device, in a process that may crash.

``python -m vita_core.diagnosing.probe`` takes the modules to import as arguments. It prints one line of JSON before and after
each step, so that the last line says where it ended.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from vita_core.diagnosing.findings import cure_of, described

if TYPE_CHECKING:
    import torch

    from vita_core.testing import Subject

__all__ = ["DTYPES", "main"]

DTYPES = ("float32", "bfloat16", "float16")
SECONDS = 2.0
"""After this time of computing no further dtype is tried on a device."""
TOWER = "clip"


def main() -> None:
    """Import each module, then try each device. Only lines of JSON go to stdout, whatever the libraries print."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    for module in sys.argv[1:]:
        _tell(out, step=f"import {module}")
        start = time.perf_counter()
        try:
            importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as in load_plugin
            _tell(out, module=module, error=described(error), cure=cure_of(error))
        else:
            _tell(out, module=module, seconds=round(time.perf_counter() - start, 2))
    if "torch" in sys.modules:
        _try_devices(out)
    _tell(out, done=True)


def _tell(out: TextIO, **row: Any) -> None:
    """Print a row, with the number of bytes that were written to stderr, a file, before it."""
    print(json.dumps({**row, "written": os.fstat(2).st_size}), file=out, flush=True)


def _try_devices(out: TextIO) -> None:
    import torch

    _tell(out, step="find the devices")
    _tell(out, cards=torch.cuda.device_count(), built=torch.version.cuda)
    devices = [torch.device("cpu"), *(torch.device("cuda", place) for place in range(torch.cuda.device_count()))]
    other = torch.accelerator.current_accelerator(check_available=True)
    devices += [other] if other is not None and other.type not in ("cpu", "cuda") else []
    for device in devices:
        _tell(out, step=f"run a tower on {device}")
        try:
            _tell(out, device=str(device), name=_name(device), ran=dict(_ran(out, device)))
        except Exception as error:
            _tell(out, device=str(device), name=_name(device), ran={}, error=described(error), cure=cure_of(error))


def _name(device: torch.device) -> str:
    import torch

    if device.type != "cuda":
        return f"{torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    found = torch.cuda.get_device_properties(device)
    return f"{found.name}, {found.total_memory / 1e9:.0f} GB"


def _ran(out: TextIO, device: torch.device) -> Iterator[tuple[str, list[str]]]:
    """Yield each dtype with the kinds of attention with which a tower ran and gave finite features."""
    from vita_core.testing import open_subject

    with open_subject(TOWER) as subject:
        _ = subject.weights  # random ones, which are made once
        start = time.process_time()  # a busy machine must not shorten it
        for dtype in DTYPES:
            if time.process_time() - start > SECONDS:
                return
            _tell(out, step=f"run a tower on {device} in {dtype}")
            yield dtype, [*_kernels(subject, device, dtype)]


def _kernels(subject: Subject, device: torch.device, dtype: str) -> Iterator[str]:
    """Yield the kinds of attention that ran: without a kernel (``eager``), and each kernel of torch's fused attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    pixels = subject.pixels()

    def runs(attention: str, kernel: SDPBackend | None = None) -> bool:
        tower = subject.build(dtype=dtype, device=device, attention=attention)
        try:
            with sdpa_kernel(kernel) if kernel is not None else torch.inference_mode(), torch.inference_mode():
                return bool(torch.isfinite(tower(pixels.to(device))).all())
        except RuntimeError:  # this kernel does not take the dtype, or is not for the device
            if kernel is None:
                raise
            return False

    if runs("eager"):
        yield "eager"
    kernels = {
        "math": "MATH",
        "flash": "FLASH_ATTENTION",
        "efficient": "EFFICIENT_ATTENTION",
        "cudnn": "CUDNN_ATTENTION",
    }
    yield from (name for name, member in kernels.items() if runs("sdpa", getattr(SDPBackend, member)))
    if device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None and dtype != "float32":
        yield from ("flash_attention_2",) if runs("flash_attention_2") else ()


if __name__ == "__main__":
    main()
