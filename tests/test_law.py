"""The harness of `law` tells a result, a refusal and every way in which a case can break the law."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest
from law import Outcome, holds, law

from vita_core.errors import CheckpointError

pytestmark = pytest.mark.slow
BUSY, BLOCK = 30.0, 64 << 20


def case(path: Path) -> str:
    """What the child runs: the content of the file says how it ends."""
    kind = path.read_text()
    if kind == "refused":
        raise CheckpointError(f"{path} is no checkpoint. Try: another one")
    if kind == "nameless":
        raise CheckpointError("this is no checkpoint. Try: another one")
    if kind == "raised":
        raise KeyError(kind)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(7)
    if kind == "asleep":
        time.sleep(BUSY)
    if kind == "busy":
        while True:
            pass
    blocks = []
    while kind == "large":
        blocks.append(os.urandom(1) * BLOCK)
    if kind == "peak":  # released before anyone could look
        len(os.urandom(1) * (600 << 20))
    return kind


def outcome(folder: Path, kind: str) -> Outcome:
    file = folder / "case.txt"
    file.write_text(kind)
    return law("test_law:case", file)


@pytest.mark.reliability(
    door="the harness of these tests", fault="a case that breaks the law", expected="it is told, and the next case runs"
)
@pytest.mark.parametrize("kind", ["result", "refused", "raised", "asleep", "busy", "large"])
def test_the_child_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a busy machine takes memory slowly
    monkeypatch.setattr("law.SECONDS", 0.3 if kind in ("asleep", "busy") else 30.0)
    found = outcome(tmp_path, kind)
    assert found.kind == {"asleep": "slow", "busy": "slow"}.get(kind, kind)
    if found.kind == "slow":
        assert found.seconds > 0.3
        assert "in case" in found.text
    assert outcome(tmp_path, "result").kind == "result"


@pytest.mark.reliability(
    door="the harness of these tests",
    fault="a decoder that crashes",
    expected="the case fails, with the place; the run goes on",
)
def test_a_death_is_told_by_its_signal_and_its_place(tmp_path: Path) -> None:
    found = outcome(tmp_path, "segfault")
    assert found.kind == "died"
    assert found.text.startswith("SIGSEGV")
    assert "test_law.py" in found.text
    assert outcome(tmp_path, "exit").text.startswith("exit code 7")
    assert outcome(tmp_path, "result").kind == "result"


def test_memory_that_was_released_again_counts(tmp_path: Path) -> None:
    found = outcome(tmp_path, "peak")
    assert found.kind == "large"
    assert 590 << 20 < found.memory < 700 << 20
    assert outcome(tmp_path, "result").memory < 20 << 20


def test_an_error_must_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "case.txt"
    file.write_text("refused")
    assert holds("test_law:case", file).kind == "refused"
    file.write_text("nameless")
    with pytest.raises(AssertionError, match=r"names none of case.txt"):
        holds("test_law:case", file)
    assert holds("test_law:case", file, names="no checkpoint").kind == "refused"
    file.write_text("raised")
    with pytest.raises(AssertionError, match="KeyError"):
        holds("test_law:case", file)
