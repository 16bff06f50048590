"""`vita verify` in real processes: a copy of a model, broken in different ways, and its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import vita

from vita_core import build_model

pytestmark = pytest.mark.slow


def test_a_saved_model(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    build_model(tiny_config).save(saved)
    done = vita("verify", saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{saved}: ")
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    (copy / "llm" / "tokenizer.json").write_text("{}")
    (copy / "projector.safetensors").unlink()
    (copy / "llm" / "modeling.py").touch()
    done = vita("verify", copy, "--json")
    assert (done.returncode, done.stderr) == (3, "")
    told = json.loads(done.stdout)
    assert (told["record"], told["findings"]) == ("provenance.json", 3)
    assert {row["path"]: row["status"] for row in told["files"] if row["status"] != "intact"} == {
        "llm/modeling.py": "extra",
        "llm/tokenizer.json": "changed",
        "projector.safetensors": "missing",
    }
    done = vita("verify", copy)
    assert done.returncode == 3
    assert "1 changed, 1 missing, 1 extra\nTry: copy the directory again" in done.stdout


def test_a_shipped_config_and_a_directory_without_provenance(tmp_path: Path) -> None:
    done = vita("verify", "quickstart")
    assert (done.returncode, done.stderr) == (0, "")
    done = vita("verify", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} has no provenance.json")
