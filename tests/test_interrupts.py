"""SIGINT and SIGTERM at any moment of any command: 130 or 143 within two seconds, one line, no debris, nobody blamed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import GOLDEN

pytestmark = pytest.mark.slow
SECONDS = 2.0
PICTURE = str(GOLDEN / "pictures" / "wide.png")
MOMENTS = {
    # command: when the signals come, in seconds after it takes signals
    "towers": (0.0, 0.05),
    "plan": (0.1, 0.3),
    "encode": (0.0, 0.5, 1.0, 2.0),
    "run": (0.2, 0.8, 1.4, 2.5),
    "check": (0.4, 1.8),
    "train": (0.3, 1.5, 3.5, 5.0),
    "probe": (1.0, 2.2),
}
SWALLOWED = {
    "an import, as torch's": "{sleep}",
    "a hook": "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_towers():\n    {sleep}\n    return []",
    "a hook, again and again": "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_towers():\n    while True:\n"
    "        with contextlib.suppress(BaseException):\n            time.sleep(60)",
}
SLEEP = """
import contextlib, sys, time
def sleep():
    print("ready", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    except BaseException as error:
        raise RecursionError("maximum recursion depth exceeded") from None
"""


def lines(config: Path, captions: Path, photos: Path, out: Path) -> dict[str, list[object]]:
    training = "training={steps: 3000, batch_size: 4, warm_start_steps: 3000, warm_start_batch: 4, variants: 2}"
    return {
        "towers": ["towers"],
        "plan": ["plan", config],
        "encode": ["encode", config, *[PICTURE] * 3, "--out", out / "features.safetensors"],
        "run": ["run", config, "--image", PICTURE, "--set", "generation.max_new_tokens=400"],
        "check": ["check", "clip"],
        "train": ["train", config, "--data", captions, "--out", out / "trained", "--set", training],
        "probe": ["probe", config, "--data", photos, "--every-layer"],
    }


@pytest.fixture
def loaded() -> Iterator[None]:
    """Two processes that keep the processors busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in busy:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(*words: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command, once it takes signals. Before, Python itself starts, and ends as it likes."""
    line = [sys.executable, "-m", "vita_core", *map(str, words)]
    whole = {**os.environ, **environment}
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=whole) as process:
        while process.poll() is None and not caught(process.pid) & 1 << (signal.SIGTERM - 1):
            time.sleep(0.001)
        yield process


def caught(process: int) -> int:
    """The signals that a process has handlers of, as a bit mask."""
    with contextlib.suppress(FileNotFoundError):
        status = Path(f"/proc/{process}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("SigCgt"))[7:], 16)
    return 0


def end(process: subprocess.Popen[str], number: int) -> tuple[int, float, list[str]]:
    """Send a signal. Return the exit code, how many seconds the command still took, and what it printed to stderr."""
    process.send_signal(number)
    sent = time.monotonic()
    _, told = process.communicate(timeout=60)
    code = process.returncode
    shown = [line for line in told.splitlines() if line and "warning:" not in line and "%|" not in line]
    return (128 - code if code < 0 else code), time.monotonic() - sent, shown


@pytest.mark.parametrize("command", MOMENTS)
@pytest.mark.reliability(
    door="signals",
    fault="SIGINT and SIGTERM at twenty moments, imports and discovery of plugins among them, on a busy machine",
    expected="130 or 143 within two seconds, one line, no debris",
)
def test_a_signal_ends_a_command(
    command: str, tiny_config: Path, captioned: Path, photos: Path, tmp_path: Path, loaded: None
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    words = lines(tiny_config, captioned, photos, out)[command]
    place = {"TMPDIR": str(scratch), "VITA_CACHE": str(tmp_path / "cache")}
    for number, moment in zip([signal.SIGINT, signal.SIGTERM] * 2, MOMENTS[command], strict=False):
        with running(*words, **place) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            code, seconds, shown = end(process, number)
        if code == 0:  # it had ended
            continue
        assert code == 128 + number, (moment, shown)
        assert seconds < SECONDS, (moment, seconds)
        assert len(shown) <= 1, shown
        assert all(line.startswith("stopped.") for line in shown)
        assert not [*scratch.iterdir()], (moment, [*scratch.iterdir()])
        assert not [path for path in tmp_path.rglob(".*") if "partial" in path.name], moment


@pytest.mark.parametrize("where", SWALLOWED)
@pytest.mark.reliability(
    door="signals",
    fault="Ctrl-C that an import or a hook swallows or turns into another error",
    expected="130 within two seconds; no plugin is blamed",
)
def test_no_plugin_is_blamed_that_swallows_the_interrupt(where: str, tmp_path: Path) -> None:
    code = (
        SWALLOWED[where]
        .replace("{sleep}", "sleep()")
        .replace("while True:", 'print("ready", file=sys.stderr)\n    while True:')
    )
    (tmp_path / "swallowing.py").write_text(SLEEP + code)
    with running("-p", "swallowing", "towers", PYTHONPATH=str(tmp_path)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        code, seconds, shown = end(process, signal.SIGINT)
    assert (code, shown) == (130, ["stopped."])
    assert seconds < SECONDS


@pytest.mark.reliability(
    door="signals",
    fault="SIGTERM, or Ctrl-C twice, in a training whose disk is slow",
    expected="a checkpoint at the first, the end within two seconds at the second",
)
def test_a_training_saves_at_a_signal_and_stops_at_the_second(
    tiny_config: Path, captioned: Path, tmp_path: Path
) -> None:
    """The checkpoint takes its time: here the disk does."""
    out = tmp_path / "out" / "trained"
    (tmp_path / "slow_disk.py").write_text(
        "import sys, time\n"
        "slept = []\n"
        "def watch(event, args):\n"
        "    if not slept and event == 'open' and 'checkpoint-' in str(args[0]) and 'optimizer' in str(args[0]):\n"
        "        slept.append(time.sleep(3))\n"
        "sys.addaudithook(watch)\n"
    )
    words = ["-p", "slow_disk", *lines(tiny_config, captioned, captioned, out.parent)["train"]]
    for signals, codes in (((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGINT), 130)):
        kept = {*(out / "work").rglob("checkpoint-*")}
        with running(*words, PYTHONPATH=str(tmp_path)) as process:
            metrics = out / "metrics.jsonl"
            before = metrics.read_text() if metrics.is_file() else ""
            while process.poll() is None and not (metrics.is_file() and metrics.read_text() != before):
                time.sleep(0.01)
            for number in signals[:-1]:
                process.send_signal(number)
                time.sleep(0.5)
            code, seconds, shown = end(process, signals[-1])
        assert code == codes, shown
        assert shown[-1].startswith("stopped. What is done so far is kept. To go on, run the same command again: vita ")
        if len(signals) == 1:
            assert {*(out / "work").rglob("checkpoint-*")} > kept
        else:
            assert seconds < SECONDS
