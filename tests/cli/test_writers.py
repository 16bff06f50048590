"""Every command that writes: killed while it writes, on a full or read-only disk, and two of them at once.

Trainings and comparisons have such tests of their own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import GOLDEN, vita
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
PICTURES = GOLDEN / "pictures"
KILLER = """
import os, signal, sys

EVENTS, FOLDER, left = {"open", "os.mkdir", "os.rename", "os.remove"}, os.environ["KILL_UNDER"], [int(os.environ["KILL_AT"])]

def watch(event, args):
    if event in EVENTS and any(str(arg).startswith(FOLDER) for arg in args[:2]):
        if event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
vita_api = 1
"""
WRITERS = ["encode", "run", "new-tower", "migrate", "export", "probe", "data"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "disk"
    place.mkdir()
    return place


@pytest.fixture
def disk(out: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", out], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"only root may mount a small disk: {made.stderr.decode()}")
    yield out
    subprocess.run(["umount", "--lazy", out], check=True)


@pytest.fixture(params=WRITERS)
def command(request: pytest.FixtureRequest, tiny_config: Path, photos: Path, out: Path) -> list[object]:
    """A command that writes to `out`. `probe` writes to a cache."""
    with (out.parent / "bad.jsonl").open("w") as rows:
        rows.write('{"image": "missing.png", "caption": "a cat ."}\n' * 2)
    lines: dict[str, list[object]] = {
        "encode": [tiny_config, PICTURES / "wide.png", PICTURES / "tall.png", "--out", out / "features.safetensors"],
        "run": [tiny_config, "--images", PICTURES, "--jsonl", out / "answers.jsonl", "--batch", 1],
        "new-tower": ["my_vit", "--at", out / "mine"],
        "migrate": [GOLDEN / "vita15", "--out", out / "vita.yaml"],
        "export": [GOLDEN / "vita15", "--out", out / "exported"],
        "probe": [tiny_config, "--data", photos],
        "data": ["check", out.parent / "bad.jsonl", "--rejected", out / "rejected.jsonl"],
    }
    return [request.param, *lines[request.param]]


def run(command: list[object], out: Path, *plugin: str, **environment: str) -> tuple[int, str]:
    if command[0] == "probe":
        environment["VITA_CACHE"] = str(out)
    done = vita(*plugin, *command, **environment)
    return done.returncode, done.stderr


def succeeded(command: list[object], out: Path) -> None:
    code, told = run(command, out)
    assert code == (3 if command[0] == "data" else 0), told


def written(out: Path) -> set[str]:
    """The files, and that nothing half is among them."""
    for file in out.rglob("*.safetensors"):
        load_file(file)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    return {"features" if "features-" in name else name for name in names}


def test_a_killed_command_leaves_all_or_nothing(
    command: list[object], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.chdir(tmp_path)
    for moment in (2,) if command[0] == "data" else (2, 4):  # it changes fewer things
        code, told = run(command, out, "-p", "killer", KILL_UNDER=str(out), KILL_AT=str(moment))
        assert code == -signal.SIGKILL, (moment, told)
        assert not [
            name for name in written(out) if "partial" not in name and name not in ("answers.jsonl", "features")
        ]
    succeeded(command, out)
    found = written(out)
    assert found
    assert not [name for name in found if "partial" in name], "what killed ones left is deleted"


def test_a_full_disk_and_a_read_only_one(command: list[object], disk: Path, tmp_path: Path) -> None:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as opened:
        while True:
            try:
                opened.write(b"\0" * 4096)
            except OSError:
                break
    code, told = run(command, disk)
    assert code == 2, told
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert "no space is left on the disk" in line
    assert str(disk) in line
    left = written(disk) - {"filler"}
    assert not left or (command[0] == "run" and not (disk / "answers.jsonl").stat().st_size) or command[0] == "probe", (
        left
    )
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    code, told = run(command, disk)
    assert code == 2, told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert "Read-only file system" in line
    assert str(disk) in line
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    succeeded(command, disk)
    assert not [name for name in written(disk) if "partial" in name]


def test_two_processes_write_the_same(command: list[object], out: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        codes = {code for code, _ in pool.map(lambda _: run(command, out), range(2))}
    allowed = {"data": {3}, **dict.fromkeys(("new-tower", "export", "migrate"), {0, 2})}.get(
        str(command[0]), {0}
    )  # 2: it exists already
    assert codes <= allowed
    assert not [name for name in written(out) if "partial" in name]


def test_a_cache_that_cannot_be(tiny_config: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = vita("probe", tiny_config, "--data", photos, VITA_CACHE=os.fspath(tmp_path / "file" / "cache"))
    assert done.returncode == 2
    assert "VITA_CACHE" in done.stderr
    missing = tmp_path / "is" / "made"
    assert vita("probe", tiny_config, "--data", photos, VITA_CACHE=os.fspath(missing)).returncode == 0
    assert [*missing.glob("features/features-*.safetensors")]
