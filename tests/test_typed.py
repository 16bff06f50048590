"""The installed packages are typed: a user's program is checked against them, strictly."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from distributions import REPOSITORY, Environment, build_wheel

pytestmark = pytest.mark.extras  # mypy reads torch and transformers

PROGRAM = """\
from torch import Tensor

from vita_core import BaseVisionTower, VisionTower, VitaError, build_model, build_tower, make_plan

def features(weights: str, pixels: Tensor) -> Tensor:
    tower: BaseVisionTower = build_tower({"type": "siglip", "weights": weights})
    known: VisionTower = tower
    tokens: int = make_plan("model.yaml").tokens
    print(known.hidden_size + tokens)
    return tower(pixels)  # type: ignore[no-any-return]  # torch types Module.__call__ so

def answer(place: str) -> str:
    try:
        return build_model(place).ask("photo.jpg", "What is this?").text
    except VitaError as error:
        return str(error)

def wrong(place: str) -> None:
    print(build_model(place).ask("photo.jpg", "What is this?").txt)
    tokens: str = make_plan(place).tokens
"""


def test_a_users_program_is_checked_against_the_wheel(environment: Environment, tmp_path: Path) -> None:
    """What is right passes, and the two mistakes are found, which they are not in a package without types."""
    with zipfile.ZipFile(build_wheel(REPOSITORY, tmp_path)) as wheel:
        page = {f"vita_core/comparing/page/page.{kind}" for kind in ("html", "css", "js")}
        assert {"vita_core/py.typed", "vita_plugins/py.typed"} | page <= set(wheel.namelist())
        wheel.extractall(environment.site)  # as pip does; pip would first uninstall the one that is tested
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        [*command, "--python-executable", environment.bin / "python", "program.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    *errors, total = done.stdout.splitlines()
    assert len(errors) == 2, done.stdout
    assert 'has no attribute "txt"' in errors[0]
    assert 'has type "int", variable has type "str"' in errors[1]
    assert "2 errors in 1 file" in total
