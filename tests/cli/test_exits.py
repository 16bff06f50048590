"""Exit codes, and the report that a bug prints instead of a traceback."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, vita

from vita_core.cli.bugs import report, without_paths

BROKEN = """
from vita_core.plugins.registry import Registry
def rows(self, kind):
    raise KeyError(f"no {__file__} for https://user:secret@example.org/x.png")
Registry.all = rows
vita_api = 1
"""


@pytest.mark.slow
@pytest.mark.reliability(
    door="exit codes",
    fault="a bug of ours",
    expected="1, and a report to paste without paths; a traceback only with VITA_DEBUG",
)
def test_a_bug_prints_a_report_to_paste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    done = vita("-p", "broken", "towers")
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: KeyError: 'no PATH.py for PATH.png'. This is a bug. Try: send these lines to ")
    assert rest[0].startswith("  vita-core 0")
    assert "torch 2" in rest[1]
    assert "  command: vita -p broken towers" in rest
    assert re.fullmatch(r"  at broken\.py:4 in rows", rest[-1])
    assert any(line.startswith("  at vita_core/cli/towers.py:") for line in rest)
    assert str(tmp_path) not in done.stderr
    assert str(REPOSITORY) not in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback (most recent call last)" in vita("-p", "broken", "towers", VITA_DEBUG="1").stderr


def test_the_command_of_a_report_holds_no_path_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    words = [
        "encode",
        str(tmp_path / "my.yaml"),
        "--out=~/a.safetensors",
        "-q",
        "Who is she?",
        "--set",
        "tower.weights=./x",
    ]
    told = report(ValueError(), words)
    assert "  command: vita encode PATH.yaml --out=PATH.safetensors -q TEXT --set tower.weights=PATH" in told
    assert told.startswith("ValueError. This is a bug. Try: ")
    assert without_paths("a/b of ./c and /d/e.bin: 1/2 in ../f") == "a/b of PATH and PATH.bin: 1/2 in PATH"


@pytest.mark.reliability(
    door="exit codes",
    fault="a bug of a plugin",
    expected="1, and a report that names the plugin",
)
def test_a_bug_of_a_plugin_names_its_author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "vita_odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: vita-odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vita]\nodd = vita_odd\n")
    (tmp_path / "vita_odd.py").write_text("def encode():\n    raise RuntimeError('odd')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import vita_odd  # type: ignore[import-not-found]  # the lines above write it

    with pytest.raises(RuntimeError) as raised:
        vita_odd.encode()
    told = report(raised.value, [])
    assert told.startswith(
        "RuntimeError: odd. This is a bug of plugin odd. Try: send these lines to the author of vita-odd 1.0"
    )
    assert "  plugins: vita-odd 1.0" in told
    del sys.modules["vita_odd"]


@pytest.mark.slow
@pytest.mark.reliability(
    door="exit codes",
    fault="a reader of the output that ends first",
    expected="141, and nothing on stderr",
)
def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    import subprocess

    line = f"{sys.executable} -m vita_core plugins --json"
    script = f"trap '' PIPE; ({line}; echo $? > {tmp_path}/code) | true"
    done = subprocess.run(
        ["sh", "-c", script], check=False, capture_output=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert done.stderr == b""
    assert (tmp_path / "code").read_text() in ("141\n", "0\n")


@pytest.mark.reliability(
    door="exit codes",
    fault="no memory",
    expected="2, and what to do",
)
def test_no_memory_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from vita_core.cli import _failed

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA")):
        assert _failed(error) == 2
        assert capsys.readouterr().err.startswith("error: out of memory. Try: ")
