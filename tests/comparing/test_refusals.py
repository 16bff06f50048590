"""What `vita compare` refuses before it trains anything, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from small import write_config, write_data

from vita_core import VitaError
from vita_core.comparing.comparison import prepared
from vita_core.comparing.planned import Options, named
from vita_core.comparing.statistics import check_installed


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit code of a command that ends before it trains."""
    from vita_core.cli import main

    monkeypatch.setattr(sys, "argv", ["vita", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("tune", ["learning_rate=", "learning_rate=1e-3,1e-3", "learning_rate=0", "steps=3", "1e-3"])
def test_a_wrong_tune_is_refused(tune: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = ["compare", "a.yaml", "b.yaml", "--data", "d", "--out", "o", "--tune", tune]
    assert run(monkeypatch, *words) == 2
    assert f"--tune: not different learning rates: '{tune}'" in capsys.readouterr().err


def test_an_empty_task_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = ["compare", "a.yaml", "b.yaml", "--data", "d", "--out", "o", "--lmms-eval", "mme,"]
    assert run(monkeypatch, *words) == 2
    assert "--lmms-eval: a task is empty: 'mme,'" in capsys.readouterr().err


def test_incomparable_configs_are_refused_each_with_its_reason(
    tmp_path: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = write_data(tmp_path / "data")
    one = write_config(tmp_path / "one.yaml", tiny_llm)
    two = write_config(tmp_path / "two.yaml", tiny_llm, training={"steps": 9, "batch_size": 2}, tower="siglip")
    assert run(monkeypatch, "compare", one, two, "--data", data, "--out", tmp_path / "out", "--tokens", 17) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        "error: one: tower: 16 tokens a picture, fewer than 17, and tokens are only pooled down."
    )
    assert any(line.startswith("error: two: training.steps: 9, but 2 in one. ") for line in lines)
    assert not (tmp_path / "out").exists()
    over = ["--over", "tower.pool=2", "--over", "tower.pool=1"]
    assert run(monkeypatch, "sweep", one, *over, "--data", data, "--out", tmp_path / "out") == 2
    assert (
        "error: pool=2: tower: 4 tokens a picture, but another config has 1. Try: `--tokens 1`"
        in capsys.readouterr().err
    )


def test_a_comparison_runs_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(VitaError, match="a comparison runs in one process, not 2"):
        prepared(named(["a.yaml", "b.yaml"]), tmp_path, tmp_path, Options())


@pytest.mark.parametrize(("module", "package"), [("scipy.stats", "scipy"), ("plotly.offline", "plotly")])
def test_without_a_package_it_says_what_to_install(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(VitaError, match=rf"a comparison needs {package}, .* Try: `pip install 'vita-core\[compare\]'`"):
        check_installed()
