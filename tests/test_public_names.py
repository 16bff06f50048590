"""The built-in plugins, and the example, use exactly what a third party has."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import vita
from distributions import REPOSITORY

import vita_core

PACKAGES = sorted(path.parent for path in (REPOSITORY / "vita_plugins").glob("*/__init__.py"))
PACKAGES.append(REPOSITORY / "examples" / "vita-tower-dinov2" / "vita_tower_dinov2")


def core_names(file: Path) -> Iterator[str]:
    """What a file takes from vita_core: the names, or the modules where it reaches past the package's own."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vita_core":
            yield from ([alias.name for alias in node.names] if node.module == "vita_core" else [node.module or ""])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "vita_core")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_plugins_use_public_names_alone(package: Path) -> None:
    used = {name for file in package.rglob("*.py") for name in core_names(file)}
    assert used
    assert used <= {*vita_core.__all__}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_tower_stays_small(package: Path) -> None:
    assert len((package / "tower.py").read_text().splitlines()) <= 65


@pytest.mark.parametrize("name", vita_core.__all__)
def test_every_public_name_is_there_and_described(name: str) -> None:
    value = getattr(vita_core, name)
    assert name in dir(vita_core)
    assert name == "hookimpl" or value.__doc__


@pytest.mark.slow
def test_the_version_is_that_of_the_distribution() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert vita_core.__version__ == version
    assert "__version__" in dir(vita_core)
    assert vita("--version").stdout == f"vita-core {version}\n"


@pytest.mark.slow
def test_the_version_is_read_on_first_use() -> None:
    code = "import sys, vita_core; assert 'importlib.metadata' not in sys.modules; vita_core.__version__"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
