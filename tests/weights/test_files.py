"""What a full disk leaves of a file, and the error that says so. A limit on the size of files stands for the disk."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vita_core import VitaError
from vita_core.weights.files import append_line, write_text, write_whole, writing

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
def test_a_full_disk_leaves_the_file_as_it_was(write: Callable[[Path], None], needed: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("before")
    told = (
        rf"cannot write {re.escape(str(file))}: no space is left on the disk, in bytes: {needed}[\d,]+ are free\. Try: "
    )
    with pytest.raises(VitaError, match=told):
        write(file)
    assert file.read_text() == "before"
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.usefixtures("limited")
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
