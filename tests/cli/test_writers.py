"""Every command that writes: killed while it writes, on a full or read-only disk or with a limit on files, and two at once.

Trainings and comparisons have more such tests of their own, and so has the asset cache.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import GOLDEN, vita
from labelled import folders
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
PICTURES = GOLDEN / "pictures"
KILLER = """
import os, re, shutil, signal, sys

EVENTS, FOLDER, SHOTS = {"open", "os.mkdir", "os.rename", "os.remove"}, os.environ["KILL_UNDER"], os.environ["SHOTS"]
copying = []

def watch(event, args):
    paths = [str(arg) for arg in args[:2] if str(arg).startswith(FOLDER)]
    if event not in EVENTS or not paths or copying or (event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    copying.append(True)
    shutil.copytree(FOLDER, f"{SHOTS}/{len(os.listdir(SHOTS))}")  # what a kill leaves at this moment
    if re.search(os.environ["KILL_AT"], f"{event} {paths[-1]}") and len(os.listdir(SHOTS)) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    copying.clear()

sys.addaudithook(watch)
vita_api = 1
"""
LIMITED = """
import io, multiprocessing.util, os, resource, sys

before = resource.getrlimit(resource.RLIMIT_FSIZE)
sys.stdout, sys.stderr = open(os.devnull, "w"), io.StringIO()  # the limit is for the files of the tests' streams too

def end(told):
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    os.write(2, told.getvalue().encode())

multiprocessing.util.Finalize(None, end, (sys.stderr,), exitpriority=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
vita_api = 1
"""
LAST = {
    # command: the last change of its output
    "encode": r"os\.rename .*features\.safetensors$",
    "run": r"open .*answers\.jsonl$",
    "new-tower": r"os\.rename .*/mine$",
    "migrate": r"os\.rename .*/vita\.yaml$",
    "export": r"os\.rename .*/exported$",
    "data": r"os\.rename .*rejected\.jsonl$",
}
OLD = {"encode": "features.safetensors", "data": "rejected.jsonl"}
"""The files that these commands replace. The others refuse to, or add to what is there."""
OTHERS, TRAINERS = ["probe"], ["train", "compare"]
"""The feature cache has tests of its own of processes that are killed, and of two at once."""


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


@pytest.fixture(scope="module")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few pictures of two labels, and behind them a data set of the same with captions."""
    root = folders(tmp_path_factory.mktemp("few") / "photos", 16, ("apple", "sea"))
    rows = [{"image": str(path), "caption": "a cat ."} for path in sorted(root.rglob("*.png"))]
    root.with_name("few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(params=[*LAST, *OTHERS])
def command(request: pytest.FixtureRequest, tiny_config: Path, few_photos: Path, out: Path) -> list[object]:
    """A command that writes to `out`. `probe` writes to a cache."""
    bad = out.parent / "bad.jsonl"
    bad.write_text('{"image": "missing.png", "caption": "a cat ."}\n' * 2)
    shutil.copy(tiny_config, other := tiny_config.with_name("other.yaml"))
    quick = "training={steps: 2, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1}"
    lines: dict[str, list[object]] = {
        "encode": [tiny_config, PICTURES / "wide.png", PICTURES / "tall.png", "--out", out / OLD["encode"]],
        "run": [tiny_config, "--images", PICTURES, "--jsonl", out / "answers.jsonl", "--batch", 1],
        "new-tower": ["my_vit", "--at", out / "mine"],
        "migrate": [GOLDEN / "vita15", "--out", out / "vita.yaml"],
        "export": [GOLDEN / "vita15", "--out", out / "exported"],
        "probe": [tiny_config, "--data", few_photos],
        "data": ["check", bad, "--rejected", out / OLD["data"]],
        "train": [tiny_config, "--data", few_photos.with_name("few.jsonl"), "--out", out / "trained", "--set", quick],
        "compare": [
            tiny_config,
            other,
            "--data",
            few_photos.with_name("few.jsonl"),
            "--out",
            out / "compared",
            "--set",
            quick,
        ],
    }
    return [request.param, *lines[request.param]]


def run(command: list[object], out: Path, plugin: str | None = None, **environment: str) -> tuple[int, str]:
    if command[0] == "probe":
        environment["VITA_CACHE"] = str(out / "is" / "made")
    options = [] if plugin is None else ["--strict-plugins", "-p", plugin]  # `data` would not load it
    done = vita(*options, *command, **environment)
    return done.returncode, done.stderr


def refused(command: list[object], out: Path, plugin: str | None = None) -> str:
    """Run a command that cannot write. Return its only error, which names the file."""
    code, told = run(command, out, plugin)
    assert code == 2, told
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert str(out) in line
    return line


def written(out: Path) -> set[str]:
    """The files, and that nothing half is among them."""
    for file in out.rglob("*.safetensors"):
        if file.read_bytes() != b"old":
            load_file(file)
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def kept(out: Path, name: object) -> bool:
    """Whether `out` is as it was, without debris: the old file, or nothing. `run` may have added whole lines."""
    if name == "run" and (rows := out / "answers.jsonl").exists():
        return written(out) == {"answers.jsonl"} and all(map(json.loads, rows.read_text().splitlines()))
    old = OLD.get(str(name))
    return written(out) == ({old} if old else set()) and (old is None or (out / old).read_bytes() == b"old")


def begin(out: Path, name: object) -> None:
    if old := OLD.get(str(name)):
        (out / old).write_bytes(b"old")


@pytest.mark.reliability(
    door="every command that writes",
    fault="killed at its last change; and what it left at each earlier one",
    expected="the old output or the new one; the next run goes on and removes debris",
)
@pytest.mark.reliability(
    door="every command that writes",
    fault="two at once on one output",
    expected="both end well, or one says that the output exists or is being written; the output is whole",
)
@pytest.mark.parametrize("command", [*LAST], indirect=True)
def test_a_killed_command_and_then_two_at_once(
    command: list[object], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, shots = str(command[0]), tmp_path / "shots"
    (tmp_path / "killer.py").write_text(KILLER)
    shots.mkdir()
    monkeypatch.chdir(tmp_path)
    begin(out, name)
    code, told = run(command, out, "killer", KILL_UNDER=str(out), SHOTS=str(shots), KILL_AT=LAST[name])
    assert code == -signal.SIGKILL, told
    assert len([*shots.iterdir()]) > 2
    for shot in shots.iterdir():
        for left in shot.rglob(".*.partial"):
            shutil.rmtree(left)
        assert kept(shot, name), shot
    with ThreadPoolExecutor(2) as pool:
        ended = [*pool.map(lambda _: run(command, out), range(2))]
    good = 3 if name == "data" else 0
    refusals = [told for code, told in ended if code == 2]
    assert {code for code, _ in ended} <= {good, 2}, ended
    assert len(refusals) < 2
    assert not refusals or name in ("new-tower", "export", "migrate", "run"), refusals
    assert all(any(reason in told for reason in ("exists", "not empty", "another process")) for told in refusals)
    found = written(out)
    assert found
    assert not list(out.rglob("*partial*")), "what the killed one left is deleted"
    if name == "run":
        rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
        assert {row["image"] for row in rows} == {path.name for path in PICTURES.iterdir()}


@pytest.mark.reliability(
    door="every command that writes",
    fault="a disk that is full (a tmpfs of 1 MB)",
    expected="one error with the file and the space, exit code 2; the old output stays, without debris",
)
@pytest.mark.reliability(
    door="every command that writes",
    fault="a disk that is mounted read-only",
    expected="one error that names the file, exit code 2",
)
def test_a_full_disk_and_a_read_only_one(command: list[object], disk: Path) -> None:
    begin(disk, command[0])
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as opened:
        while True:
            try:
                opened.write(b"\0" * 4096)
            except OSError:
                break
    assert "no space is left on the disk" in refused(command, disk)
    filler.unlink()
    assert kept(disk, command[0])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert "Read-only file system" in refused(command, disk)


@pytest.mark.reliability(
    door="every command that writes",
    fault="a limit on the size of files (RLIMIT_FSIZE)",
    expected="one error with the file and the limit, exit code 2; the old output stays, without debris",
)
@pytest.mark.parametrize("command", [*LAST, *OTHERS, *TRAINERS], indirect=True)
def test_a_limit_on_the_size_of_files(
    command: list[object], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    monkeypatch.chdir(tmp_path)
    begin(out, command[0])
    told = refused(command, out, "limited")
    assert re.search(r"no space is left on the disk, or the file is larger than `ulimit -f` allows, in bytes: ", told)
    assert kept(out, command[0]) or command[0] in TRAINERS


@pytest.mark.reliability(
    door="feature cache",
    fault="a cache directory that cannot be made",
    expected="an error with VITA_CACHE, exit code 2",
)
def test_a_cache_that_cannot_be(tiny_config: Path, few_photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = vita("probe", tiny_config, "--data", few_photos, VITA_CACHE=os.fspath(tmp_path / "file" / "cache"))
    assert done.returncode == 2
    assert "VITA_CACHE" in done.stderr
