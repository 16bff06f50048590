"""docs/train.md is executed: every block, in its order, on small stand-ins for the quickstart's parts."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import GOLDEN, REPOSITORY
from documents import Block, blocks_of, shell_commands

from vita_core.cli import app

PAGE = REPOSITORY / "docs" / "train.md"
BY_PROCESSES = "torchrun"
ANSWER = re.compile(r"named |missed |An? ")


def run_vita(words: list[str]) -> str:
    """What a command prints, to stdout and to stderr."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = typer.main.get_command(app).main(words, standalone_mode=False)
    assert not code, printed.getvalue()
    return printed.getvalue()


def launched(words: list[str]) -> str:
    """What a program of several processes prints."""
    program = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def follow(page: list[Block], does: Callable[[list[str]], str | None]) -> dict[int, str]:
    """Write, run and execute the blocks in the working directory. Return what the commands of a block print, by its line.

    `does` gets the words of a command, and returns what it prints.
    """
    names: dict[str, Any] = {"__name__": "page"}
    told: dict[int, str] = {}
    for block in page:
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, str(block), "exec"), names)
            told[block.line] = printed.getvalue()
        elif block.language == "bash":
            told[block.line] = "".join(does(words) or "" for words in shell_commands(block.text))
    return told


def shape(text: str) -> set[str]:
    """The lines of an output without numbers, rules, widths and the folder; without answers, which depend on the machine."""
    plain = re.sub(r"[^\x00-\x7f]", " ", text.replace(f"{Path.cwd()}/", ""))
    lines = (re.sub(r"[\d,.]*\d\b|#+", "N", line) for line in plain.splitlines() if not ANSWER.match(line))
    return {" ".join(line.split()) for line in lines} - {""}


def stand_in(folder: Path, tiny_llm: Path) -> None:
    """A config named quickstart, which goes before the shipped one: small parts with random weights."""
    config = {"tower": {"weights": str(GOLDEN / "clip")}, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    training = {"warm_start_steps": 1, "variants": 0}
    (folder / "quickstart").write_text(yaml.safe_dump({**config, "training": training}))


@pytest.mark.slow
def test_every_block_runs_on_small_parts(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    stand_in(tmp_path, tiny_llm)
    typed = []

    def does(words: list[str]) -> str | None:
        typed.append(words[0])
        return run_vita(words[1:]) if words[0] == "vita" and words[1] != "assets" else None

    follow(blocks_of(PAGE), does)
    assert set(typed) == {"vita", BY_PROCESSES}
    assert (tmp_path / "merged" / "config.yaml").is_file()


@pytest.mark.extras
def test_the_block_of_several_processes(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(tmp_path, tiny_llm)
    needed = ("from pathlib", BY_PROCESSES)
    follow(
        [block for block in blocks_of(PAGE) if block.title == "mine.yaml" or block.text.startswith(needed)], launched
    )
    assert json.loads((tmp_path / "by-two" / "work" / "run.json").read_text())["processes"] == 2
    assert (tmp_path / "by-two" / "llm-adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.extras
@pytest.mark.network
def test_the_story_on_the_quickstarts_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed, with what the page says is printed. It takes minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "130")
    page = blocks_of(PAGE)
    story = page[: next(number for number, block in enumerate(page) if "turns = [" in block.text)]
    told = follow(story, lambda words: run_vita(words[1:]))
    for typed, printed in itertools.pairwise(story):
        if printed.language == "text":
            assert shape(printed.text) <= shape(told[typed.line]), str(printed)
    scores = [float(score) for output in told.values() for score in re.findall(r"([\d.]+)% named", output)]
    assert len(scores) == 2
    assert scores[1] > scores[0]
