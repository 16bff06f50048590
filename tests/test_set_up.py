"""`.ci/install`, which `make` calls: uv with the user's settings of pip, or pip where uv cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

pytestmark = pytest.mark.slow

INSTEAD = "Installing with pip instead of uv"
SETTINGS = "[global]\nconstraint = caps.txt\nindex-url = https://mirror/simple\n"
PIP = """#!/bin/sh
case "$1" in
  config) exec {python} -m pip "$@";;
  *) echo "pip $*" >> "$LOG"; case "$*" in *" uv") exit {rc};; esac;;
esac
"""
UV = """#!/bin/sh
echo "uv $* from $UV_DEFAULT_INDEX" >> "$LOG"
exit {rc}
"""


def install(folder: Path, *, pip: int = 0, uv: int = 0, **environment: str) -> tuple[list[str], str]:
    """Run the script with stand-ins that exit with these codes; return their calls and what was printed."""
    folder.joinpath("bin").mkdir()
    for name, text in (("pip", PIP.format(rc=pip, python=sys.executable)), ("uv", UV.format(rc=uv))):
        program = folder / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    log, configured = folder / "log", folder / "pip.conf"
    configured.write_text(SETTINGS)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    done = subprocess.run(
        [REPOSITORY / ".ci" / "install", folder, "--editable", "."],
        env={**kept, "LOG": str(log), "PIP_CONFIG_FILE": str(configured), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return log.read_text().splitlines(), done.stdout


def test_uv_installs_with_the_constraints_and_the_index_of_pip(tmp_path: Path) -> None:
    calls, told = install(tmp_path)
    python = tmp_path / "bin" / "python"
    assert calls == [
        "pip install --quiet --constraint constraints.txt uv",
        f"uv pip install --quiet --compile-bytecode --python {python} --editable . --constraint caps.txt from "
        "https://mirror/simple",
    ]
    assert told == ""


def test_variables_go_before_the_files(tmp_path: Path) -> None:
    settings = {"PIP_CONSTRAINT": "a.txt b.txt", "UV_CONSTRAINT": "c.txt", "UV_DEFAULT_INDEX": "https://mine/simple"}
    calls, _ = install(tmp_path, **settings)
    assert calls[1].endswith(
        "--editable . --constraint c.txt --constraint a.txt --constraint b.txt from https://mine/simple"
    )


@pytest.mark.parametrize("failing", ["pip", "uv"])
def test_pip_where_uv_cannot_be_installed_or_fails(failing: str, tmp_path: Path) -> None:
    calls, told = install(tmp_path, pip=int(failing == "pip"), uv=int(failing == "uv"))
    assert calls[-1] == "pip install --quiet --editable . --constraint caps.txt"
    assert len(calls) == (2 if failing == "pip" else 3)
    assert INSTEAD in told
    assert len(told.splitlines()) == 1
