"""Sixty plugins installed: all there, nothing heavy imported, no README parsed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from conftest import REPOSITORY, vita

from vita_core.plugins.installed import installed

sys.path.append(str(REPOSITORY / "benchmarks"))
from startup import COMMANDS, PLUGINS, check, install


def owner(info: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The distribution and version that a metadata folder gives to an entry point."""
    (info / "entry_points.txt").write_text("[vita.sample]\nsome = module\n")
    monkeypatch.syspath_prepend(str(info.parent))
    [point] = installed("vita.sample")[0]
    return point.owner.distribution, point.owner.version


def test_the_name_is_that_of_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "some_tower-1.5.dist-info"
    info.mkdir()
    head = "Metadata-Version: 2.4\nName: some-tower\nSummary: two\n  lines\nVersion: 1.5\n"
    (info / "METADATA").write_text(head + "\nName: another\nVersion: 9\n\n" + "# README\n" * 100)
    distribution = PathDistribution(info)
    assert owner(info, monkeypatch) == ("some-tower", "1.5")
    assert (distribution.metadata["Name"], distribution.metadata["Version"]) == ("some-tower", "1.5")


def test_an_old_layout_has_its_headers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "old_tower.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 1.2\nName: old-tower\nVersion: 0.1\n")
    assert owner(info, monkeypatch) == ("old-tower", "0.1")


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sixty")
    install(folder, PLUGINS)
    return folder


@pytest.mark.slow
def test_sixty_plugins_are_all_there(sixty: Path) -> None:
    done = vita("towers", "--json", PYTHONPATH=str(sixty))
    assert done.returncode == 0, done.stderr
    brought = [row for row in json.loads(done.stdout) if row["distribution"].startswith("vita-bench-")]
    assert {row["name"] for row in brought} == {f"bench{number}" for number in range(PLUGINS)}
    assert {row["version"] for row in brought} == {"1.0"}


@pytest.mark.slow
def test_what_the_benchmark_says_of_its_commands_holds(sixty: Path) -> None:
    """Among it: none of them imports torch, transformers, timm or torchvision."""
    assert {words[0] for words in COMMANDS.values()} == {"--help", "towers", "plugins", "plan"}
    check(sixty)


@pytest.mark.slow
@pytest.mark.reliability(
    door="signals",
    fault="Ctrl-C before the first line of `vita` that takes signals",
    expected="the package imports nothing before: once Python itself has started, it ends without a traceback",
)
def test_nothing_is_imported_before_signals_are_taken() -> None:
    code = (
        "import sys; seen = []; sys.addaudithook(lambda event, args: seen.append(args[0]) if event == 'import' else None); "
        "import vita_core.__main__; print(*seen[:seen.index('vita_core.interrupts')])"
    )
    line = [sys.executable, "-S", "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert {"vita_core"} <= {*done.stdout.split()} <= {"__future__", "_signal", "vita_core", "vita_core.__main__"}
