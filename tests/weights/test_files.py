"""What a full disk leaves of a file, and the error that says so. A limit on the size of files stands for the disk."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vita_core import VitaError
from vita_core.weights.files import append_line, whole_directory, write_text, write_whole, writing

LIMIT = 8_000_000  # no other file of the tests is so large
TENSORS = {"weights": torch.zeros(LIMIT // 4)}


@pytest.fixture
def limited() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    ("write", "needed"),
    [
        (lambda path: write_text(path, "x" * (LIMIT + 1)), "8,000,001 are needed, "),
        (lambda path: write_whole(path, lambda partial: save_file(TENSORS, partial)), ""),
        (lambda path: write_whole(path, lambda partial: torch.save(TENSORS, partial), 99), "99 are needed, "),
    ],
)
@pytest.mark.reliability(
    door="every file that is written",
    fault="a full disk (RLIMIT_FSIZE), as Python, safetensors and torch tell it",
    expected="an error with the space; the old file stays, without debris",
)
def test_a_full_disk_leaves_the_file_as_it_was(write: Callable[[Path], None], needed: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    told = (
        rf"cannot write {re.escape(str(file))}: no space is left on the disk, or the file is larger than `ulimit -f` allows, "
        rf"in bytes: {needed}[\d,]+ are free\. Try: "
    )
    with pytest.raises(VitaError, match=told):
        write(file)
    assert file.read_text() == "before"
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.usefixtures("limited")
@pytest.mark.reliability(
    door="every file that is added to",
    fault="a line that does not fit on the disk",
    expected="an error with the space; nothing of the line stays",
)
def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"x" * (LIMIT - 8) + b"\n")
    with pytest.raises(VitaError, match=r"lines\.jsonl: no space .* 16 are needed"):
        append_line(file, '{"line": "two"}')
    assert file.stat().st_size == LIMIT - 7
    append_line(file, "three")
    assert file.read_bytes().endswith(b"x\nthree\n")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="of the model"), writing(tmp_path / "file"):
        raise RuntimeError("of the model")
    (tmp_path / "file").mkdir()
    with pytest.raises(VitaError, match=r"cannot write .*file: Is a directory\. Try: another path"):
        append_line(tmp_path / "file", "text")


KILLED = """
import os, sys
from pathlib import Path
from vita_core.weights.files import whole_directory, write_text

moment, target = int(sys.argv[1]), Path(sys.argv[2])
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym", "shutil.rmtree"}
count = 0

def watch(event, args):
    global count
    if event in EVENTS and not (event == "open" and not str(args[0]).startswith(str(target.parent))):
        count += 1
        if count == moment:
            os.kill(os.getpid(), 9)

import ctypes
sys.addaudithook(watch)
if sys.argv[3] == "file":
    write_text(target, "new")
else:
    with whole_directory(target) as made:
        write_text(made / "one", "new")
        write_text(made / "two", "new")
"""


def content(target: Path) -> dict[str, str]:
    return {str(path.relative_to(target)): path.read_text() for path in target.glob("*")} or {".": target.read_text()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.reliability(
    door="every file and directory that is written",
    fault="killed at each of its changes",
    expected="the old one or the new one; debris is deleted later",
)
def test_a_process_that_is_killed_leaves_the_old_or_the_new(kind: str, tmp_path: Path) -> None:
    """Killed before each change of the file system, until none is left."""
    target, moment = tmp_path / "target", 0
    names = (".",) if kind == "file" else ("one", "two")
    while True:
        moment += 1
        if kind == "file":
            target.write_text("old")
        else:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for name in names:
                (target / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(moment), target, kind], check=False)
        assert content(target) in (dict.fromkeys(names, "old"), dict.fromkeys(names, "new")), moment
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert moment > 7
    assert [*tmp_path.iterdir()] == [target], "what killed processes left is deleted by the next one"


def test_a_directory_is_replaced_where_directories_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vita_core.weights.files._exchanged", lambda *_: False)
    target, old = tmp_path / "target", tmp_path / ".target.old"
    for text in ("one", "two"):
        with whole_directory(target) as made:
            write_text(made / text, text)
        assert [path.name for path in tmp_path.rglob("*")] == ["target", text]
    target.rename(old)  # as a process leaves it that is killed between the two steps
    with pytest.raises(RuntimeError), whole_directory(target):
        raise RuntimeError
    assert content(target) == {"two": "two"}
    shutil.copytree(target, old)
    with whole_directory(target) as made:
        write_text(made / "three", "three")
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "three"]


def test_an_error_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()  # an empty one is no reason for an error
    with whole_directory(target) as made:
        write_text(made / "one", "one")
    with pytest.raises(VitaError, match=r"target: no space"), whole_directory(target) as made:  # noqa: PT012  # raised in the block
        write_text(made / "two", "two")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert content(target) == {"one": "one"}
    assert [*tmp_path.iterdir()] == [target]


@pytest.mark.reliability(
    door="every file and directory that is written",
    fault="another process that writes beside it",
    expected="both are written; neither deletes the other's work",
)
def test_what_another_process_is_writing_is_not_deleted(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "one") as first:
        write_text(tmp_path / "two", "two")
        with whole_directory(tmp_path / "one") as second:
            write_text(second / "second", "second")
        write_text(first / "first", "first")
    assert content(tmp_path / "one") == {"first": "first"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("é" * 120 + ".json")
    write_text(file, "whole")
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("year", [1980, 2090])
@pytest.mark.reliability(
    door="every file and directory that is written",
    fault="a clock that jumps",
    expected="it is replaced as ever",
)
def test_a_clock_that_jumps_changes_nothing(year: int, tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    os.utime(tmp_path / "file", (seconds := (year - 1970) * 31_556_952, seconds))
    write_text(tmp_path / "file", "new")
    assert content(tmp_path / "file") == {".": "new"}
