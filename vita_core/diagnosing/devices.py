"""Import the libraries and try the devices in another process (`vita_core.diagnosing.probe`), and report how that went."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from vita_core.diagnosing.findings import Finding

__all__ = ["probed"]

SECONDS = 300.0
"""A step that takes longer hangs: on a busy machine, the first import of a library may take a minute."""
DRIVER = Path("/proc/driver/nvidia/version")
REINSTALL = "install the libraries again: `pip install --force-reinstall vita-core`"


def probed(
    modules: Sequence[str], tell: Callable[[str], None] = lambda step: None, seconds: float = SECONDS
) -> Iterator[Finding]:
    """Yield what the probe finds of the imports of `modules` and of the devices. `tell` is called before each step.

    The probe is killed if a step takes longer than `seconds`, or if the caller stops.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", "-m", "vita_core.diagnosing.probe", *modules]
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(  # noqa: S603  # this Python, with the names of modules from our own metadata
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, env=environment
        )
        try:
            yield from _read(process, told, tell, seconds)
        finally:
            process.kill()
            process.wait()


def _read(
    process: subprocess.Popen[bytes], told: IO[bytes], tell: Callable[[str], None], seconds: float
) -> Iterator[Finding]:
    rows: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_rows, args=(process.stdout, rows), daemon=True).start()
    step, before, imported, spent = "start Python", 0, 0, 0.0
    failed: dict[str, str] = {}
    while True:
        try:
            row = rows.get(timeout=seconds)
        except queue.Empty:
            yield Finding("library", step, "problem", f"no end after {seconds:.0f} seconds: {step}", REINSTALL)
            return
        if row is None:
            yield Finding(
                "library",
                step,
                "problem",
                f"the process ended when it was to {step}: {_end(process, told, before)}",
                REINSTALL,
            )
            return
        if "step" in row:
            step, before = row["step"], row["written"]
            tell(step)
        elif "error" in row and "module" in row:
            first = failed.setdefault(row["error"], row["module"])
            says = row["error"] if first == row["module"] else f"fails as {first} does"
            yield Finding("library", f"import {row['module']}", "problem", says, row["cure"])
        elif "module" in row:
            imported, spent = imported + 1, spent + row["seconds"]
        elif "cards" in row:
            yield from _cards(row)
        elif "device" in row:
            yield _device(row)
        elif "done" in row:
            yield Finding("library", "imports", "ok", f"{imported} libraries are imported, in {spent:.1f} s")
            return


def _rows(lines: IO[bytes], rows: queue.Queue[dict[str, Any] | None]) -> None:
    """Put each row of the probe into `rows`, and None at the end."""
    for line in lines:
        rows.put(json.loads(line))
    rows.put(None)


def _end(process: subprocess.Popen[bytes], told: IO[bytes], before: int) -> str:
    """Return how a process ended, with the last line that it wrote to stderr, after what was there `before`."""
    code = process.wait()
    told.seek(before)
    lines = told.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"{how}{f', {lines[-1].strip()}' if lines else ''}".rstrip(".")


def _device(row: dict[str, Any]) -> Finding:
    ran = [f"{dtype} ({', '.join(kernels)})" for dtype, kernels in row["ran"].items() if kernels]
    name = f"{row['device']}, {row['name']}"
    if "error" in row:
        return Finding("device", name, "problem", f"no tower ran: {row['error']}", row["cure"])
    if not row["ran"].get("float32"):
        return Finding(
            "device", name, "problem", f"no tower gave finite features in float32; ran: {', '.join(ran)}", REINSTALL
        )
    return Finding("device", name, "ok", f"a small tower ran in {', '.join(ran)}")


def _cards(row: dict[str, Any]) -> Iterator[Finding]:
    """Find whether there is a card that torch does not use."""
    if row["cards"] == 0 and DRIVER.exists():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden in ("", "-1"):
            yield Finding(
                "device", "cuda", "note", f"hidden: CUDA_VISIBLE_DEVICES={hidden}", "unset CUDA_VISIBLE_DEVICES"
            )
            return
        says = f"there is an NVIDIA driver, but torch finds no card: it was built for CUDA {row['built']}"
        yield Finding("device", "cuda", "problem", says, "update the driver, or install a torch for its CUDA version")
