"""The command line in a process of its own, forked from one that has imported the libraries: importing them takes seconds.

The process that is forked has run no code of ours but imports, has no threads, and has discovered no plugin.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = ["torch", "torchvision", "transformers", "timm", "tokenizers", "safetensors.torch", "PIL.Image", "typer"]
MODELS = [f"transformers.models.{name}" for name in ("auto", "llama.modeling_llama", "clip.modeling_clip", "qwen2")]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([*LIBRARIES, *MODELS, "vita_core.cli"])


def run_command(
    arguments: list[str], environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """What ``vita ARGUMENTS`` prints and exits with, in the working directory. Raises TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="vita-command-") as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        process = context.Process(target=_child, args=(arguments, dict(environment), Path.cwd(), *streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["vita", *arguments], timeout)
        stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in streams)
        return subprocess.CompletedProcess(["vita", *arguments], process.exitcode, stdout, stderr)


def _child(arguments: list[str], environment: dict[str, str], folder: Path, stdout: Path, stderr: Path) -> None:
    """Become ``python -m vita_core ARGUMENTS``: its environment, streams, working directory and first place to import from."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = str(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w")), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    sys.argv = ["vita", *arguments]
    from vita_core.__main__ import main

    main()
