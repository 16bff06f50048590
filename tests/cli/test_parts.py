"""``vita projectors``, ``vita reductions``, and the packages that ``vita new-projector`` and ``new-reduction`` write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import vita

import vita_core
from vita_core import ProjectorSpec, ReductionSpec, VitaError, register
from vita_core.cli import parts
from vita_core.cli.new_part import new_projector, new_reduction
from vita_core.plugins.registry import registry, use_plugins


def test_projectors_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    parts.projectors(json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {r.spec.name for r in registry().all(ProjectorSpec)}
    vocabulary = rows["visual_vocabulary"]
    assert vocabulary["paper"].endswith(", arXiv 2405.20797")
    assert [name for name, row in rows.items() if ", arXiv " not in row["paper"]] == ["identity"]
    assert vocabulary["options"].keys() == {
        "classes",
        "words",
        "dropout",
        "softening",
        "names_of",
        "restraint",
        "sharpness",
    }
    assert (vocabulary["options"]["classes"], vocabulary["distribution"]) == (1000, "vita-core")
    assert vocabulary["version"] == vita_core.__version__
    assert (rows["linear"]["changes_tokens"], rows["spp_v1"]["changes_tokens"]) == (False, True)
    parts.projectors()
    title, columns, *lines = capsys.readouterr().out.splitlines()
    assert title == "Projectors"
    assert columns.split() == ["name", "what", "it", "is", "changes", "tokens", "options", "paper", "from"]
    assert len(lines) == len(rows)
    (line,) = [line for line in lines if line.startswith("visual_vocabulary ")]
    assert "classes=1000, words=128" in line
    assert line.endswith(f"vita-core {vita_core.__version__}")


def test_reductions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    parts.reductions(json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {r.spec.name for r in registry().all(ReductionSpec)}
    pool, interpolate = rows["pool"], rows["interpolate"]
    assert (pool["trainable"], pool["spatial"], pool["inside"]) == (False, True, False)
    assert pool["options"] == {"grid": None, "window": None, "kind": "average"}
    assert interpolate["options"]["grid"] == "required"
    parts.reductions()
    _, columns, *lines = capsys.readouterr().out.splitlines()
    assert columns.split() == ["name", "what", "it", "is", "trainable", "spatial", "inside", "options", "paper", "from"]
    (line,) = [line for line in lines if line.startswith("interpolate ")]
    assert "grid, mode=bilinear" in line


def test_options_that_cannot_be_imported_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    use_plugins()
    register(ProjectorSpec("lost", "s", "nowhere:build", lambda *_: 0, options="nowhere:Options"))
    parts.projectors()
    told = capsys.readouterr()
    assert "lost" in told.out
    assert "warning: plugin session of vita_core.register cannot import 'nowhere:Options'" in told.err
    use_plugins()


NAMES = [
    (new_reduction, "My-Pool", "not a valid reduction name: 'My-Pool'. Did you mean 'my_pool'?"),
    (new_reduction, "pool", "reduction already registered: 'pool', by vita-core"),
    (new_projector, "My-MLP", "not a valid projector name: 'My-MLP'. Did you mean 'my_mlp'?"),
    (new_projector, "linear", "projector already registered: 'linear', by vita-core"),
    (new_projector, "mlp9x_gelu", "projector already registered: 'mlp9x_gelu', by vita-core"),
]


@pytest.mark.parametrize(("command", "name", "message"), NAMES)
def test_names_that_are_refused(tmp_path: Path, command: Callable[..., None], name: str, message: str) -> None:
    with pytest.raises(VitaError) as caught:
        command(name, at=tmp_path / "made")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_projector("clip", at=tmp_path / "made")  # a tower of that name does not matter
    written, following, last = capsys.readouterr().out.splitlines()
    assert written == f"wrote {tmp_path / 'made'}"
    assert following.endswith(f"&& vita projectors && pytest {tmp_path / 'made'}")
    assert last.endswith("vita_projector_clip/projector.py")
    new_reduction("clip", at=tmp_path / "reduction")
    assert "vita reductions && " in capsys.readouterr().out
    new_projector("clip", at=tmp_path / "other", json=True)
    assert json.loads(capsys.readouterr().out)["distribution"] == "vita-projector-clip"


def test_an_empty_directory_is_filled_and_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell may be in it: in a directory that another one took the place of, it would see nothing."""
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    new_projector("clip", at=Path())
    assert tmp_path.stat().st_ino == before
    assert sorted(os.listdir(".")) == ["README.md", "pyproject.toml", "tests", "vita_projector_clip"]  # noqa: PTH208  # as a shell sees it


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "some"), [("projectors", {"linear", "mlpNx_gelu"}), ("reductions", {"pool"})])
def test_the_commands(kind: str, some: set[str]) -> None:
    done = vita(kind, "--json")
    assert done.returncode == 0, done.stderr
    assert some <= {row["name"] for row in json.loads(done.stdout)}
