"""The entry points that the scan of `sys.path` finds are those of `importlib.metadata`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from distributions import write_wheel

from vita_core.plugins import installed as module
from vita_core.plugins.installed import installed

GROUPS = sorted(entry_points().groups)
POINTS = "[vita.sample]\none = sample\n# a comment\n\ntwo = sample:app.run [extra]\n[other]\nthree = sample\n"
RAN = "import sys, atexit\natexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))\n"


def folder(site: Path, name: str, version: str = "1.0", points: str = POINTS) -> Path:
    """A distribution as pip leaves it; returns its metadata folder."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: readme\n")
    (info / "entry_points.txt").write_text(points)
    return info


def found(group: str = "vita.sample") -> list[tuple[str, str, str, str]]:
    points, unreadable = installed(group)
    assert not unreadable
    return [(point.name, point.value, point.owner.distribution, point.owner.version) for point in points]


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(group: str) -> None:
        raise AssertionError(f"importlib.metadata was asked for {group}")

    monkeypatch.setattr(module, "_one_by_one", fails)


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("group", GROUPS)
def test_the_scan_finds_the_same_as_importlib_metadata(group: str) -> None:
    expected = {(p.name, p.value, p.dist.name, p.dist.version) for p in entry_points(group=group) if p.dist}
    assert len(found(group)) == len(expected)
    assert {*found(group)} == expected


@pytest.mark.usefixtures("no_fallback")
def test_values_comments_and_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, "vita-sample")
    (tmp_path / "sample.py").write_text("class app:\n    run = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    owner = ("vita-sample", "1.0")
    assert found() == [("one", "sample", *owner), ("two", "sample:app.run [extra]", *owner)]
    one, two = installed("vita.sample")[0]
    assert one.load().__name__ == "sample"
    assert two.load() == 7


@pytest.mark.usefixtures("no_fallback")
def test_the_first_on_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for site, name in (("first", "Vita.Sample"), ("second", "vita-sample")):
        folder(tmp_path / site, name, version=f"{len(site)}.0", points=f"[vita.sample]\none = {site}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "second"))
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    assert found() == [("one", "first", "Vita.Sample", "5.0")]


@pytest.mark.parametrize("kind", ["zip", "egg", "finder"])
def test_what_is_no_metadata_folder_is_found_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    if kind == "zip":
        wheel = write_wheel(tmp_path, "vita-sample", {"sample": ""}, "[vita.sample]\none = sample\n")
        assert zipfile.is_zipfile(wheel)
        monkeypatch.syspath_prepend(str(wheel))
    elif kind == "egg":
        info = folder(tmp_path, "vita-sample", points="[vita.sample]\none = sample\n")
        egg = tmp_path / "vita_sample-1.0.egg"
        egg.mkdir()
        (info / "METADATA").rename(info / "PKG-INFO")
        info.rename(egg / "EGG-INFO")
        monkeypatch.syspath_prepend(str(egg))
    else:
        info = folder(site, "vita-sample", points="[vita.sample]\none = sample\n")

        class Finder:
            @staticmethod
            def find_spec(*_: object) -> None:
                return None

            @staticmethod
            def find_distributions(_: object) -> list[object]:
                from importlib.metadata import PathDistribution

                return [PathDistribution(info)]

        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert found() == [("one", "sample", "vita-sample", "1.0")]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "towers", "plugins"])
def test_light_commands_import_no_metadata_parser(command: str) -> None:
    code = f"{RAN}sys.argv = ['vita', {command!r}]\nfrom vita_core.cli import main\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.partition("LOADED ")[2].split())
    assert "vita_core.plugins.installed" in loaded
    assert not loaded & {"importlib.metadata", "email.message", "email.parser"}
