"""`vita doctor` as a command: in this environment, and in broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import vita

pytestmark = pytest.mark.slow

LISTENING = """
import os, sys
def hook(event, args):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        with open(os.environ["TOLD"], "a") as file:
            file.write(f"{event} {args}\\n")
sys.addaudithook(hook)
"""


def test_this_environment(tmp_path: Path) -> None:
    """A tower really runs in it, and neither this process nor the one that it starts opens a connection."""
    (tmp_path / "sitecustomize.py").write_text(LISTENING)
    done = vita(
        "doctor", "--json", PYTHONPATH=str(tmp_path), TOLD=str(tmp_path / "told"), VITA_CACHE=str(tmp_path / "cache")
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    told = json.loads(done.stdout)
    assert told["problems"] == 0
    found = {(row["area"], row["name"].partition(",")[0]): row["says"] for row in told["findings"]}
    assert found["device", "cpu"].startswith("a small tower ran in float32 (eager, math")
    assert "torch" in {name for area, name in found if area == "library"}
    assert {area for area, _ in found} == {"python", "library", "extra", "plugin", "cache", "disk", "device"}
    assert not (tmp_path / "told").exists(), (tmp_path / "told").read_text()
    assert not (tmp_path / "cache").exists()


def test_a_broken_environment(tmp_path: Path) -> None:
    broken = {
        "torch": "ImportError('libcudart.so.12: cannot open shared object file')",
        "pluggy": "ModuleNotFoundError(\"No module named 'pluggy'\", name='pluggy')",
        "safetensors": "RuntimeError('compiled for another Python')",
    }
    for name, error in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise {error}\n")
    done = vita("doctor", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (3, "")
    assert (
        "problem  library  import torch: ImportError: libcudart.so.12: cannot open shared object file\n" in done.stdout
    )
    assert "problem  library  import pluggy: ModuleNotFoundError: No module named 'pluggy'\n" in done.stdout
    assert (
        "problem  plugin   plugin: it could not be examined: ModuleNotFoundError: No module named 'pluggy'\n"
        in done.stdout
    )
    assert (
        "problem  cache    cache: it could not be examined: RuntimeError: compiled for another Python\n" in done.stdout
    )
    assert " Try: `pip install pluggy`\n" in done.stdout
    done = vita("towers", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.endswith("Try: `vita doctor`\n")
