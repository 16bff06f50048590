"""A directory is compared with the hashes in its provenance; what differs is found, and only that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from safetensors.numpy import save_file

from vita_core.errors import CheckpointError
from vita_core.weights.assets import ASSETS, RECORD, target
from vita_core.weights.verifying import FINDINGS, Row, Verification

QUICKSTART = REPOSITORY / "configs" / "quickstart"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def findings(directory: Path) -> list[tuple[str, str]]:
    return [(row.path, row.status) for row in Verification(directory).run() if row.status in FINDINGS]


def uncovered(directory: Path) -> list[Row]:
    return [row for row in Verification(directory).run() if row.status == "not covered"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory with files in two folders, and the hashes of all."""
    folder = tmp_path / "saved"
    (folder / "llm").mkdir(parents=True)
    (folder / "config.yaml").write_text("tower: {}\n")
    (folder / "llm" / "tokenizer.json").write_text("{}")
    save_file({"a": np.ones(4)}, folder / "llm" / "model.safetensors", {"one": "1"})
    files = ["config.yaml", "llm/tokenizer.json", "llm/model.safetensors"]
    write(folder, files={name: digest(folder / name) for name in files})
    return folder


def write(folder: Path, **record: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(record))


def test_a_directory_as_it_was_written(saved: Path) -> None:
    rows = Verification(saved).run()
    assert [(row.path, row.status, row.reason) for row in rows] == [
        ("config.yaml", "intact", ""),
        ("llm/model.safetensors", "intact", ""),
        ("llm/tokenizer.json", "intact", ""),
    ]


@pytest.mark.reliability(
    door="`vita verify`",
    fault="changed, missing and extra files",
    expected="each is named",
)
def test_changed_missing_and_extra_files(saved: Path) -> None:
    (saved / "config.yaml").write_text("tower: {x: 1}\n")
    (saved / "llm" / "tokenizer.json").unlink()
    (saved / "llm" / "modeling.py").write_text("print('hello')")
    assert findings(saved) == [
        ("config.yaml", "changed"),
        ("llm/modeling.py", "extra"),
        ("llm/tokenizer.json", "missing"),
    ]
    [changed] = [row for row in Verification(saved).run() if row.status == "changed"]
    found, recorded = (hashlib.sha256(text).hexdigest() for text in (b"tower: {x: 1}\n", b"tower: {}\n"))
    assert changed.reason == f"its SHA-256 is {found}, recorded {recorded}"


@pytest.mark.reliability(
    door="`vita verify`",
    fault="one byte that changed",
    expected="the file is named",
)
def test_one_changed_byte_at_the_end_of_a_large_file(saved: Path) -> None:
    file = saved / "llm" / "model.safetensors"
    save_file({"a": np.zeros(3 * 2**20, np.uint8), "b": np.zeros(9 * 2**20, np.uint8)}, file)
    write(saved, files={"config.yaml": digest(saved / "config.yaml"), "llm/model.safetensors": digest(file)})
    (saved / "llm" / "tokenizer.json").unlink()
    assert not findings(saved)
    read: list[int] = []
    asked = Verification(saved)
    asked.run(read.append)
    assert sum(read) == asked.size == file.stat().st_size + (saved / "config.yaml").stat().st_size
    assert len(read) > 3  # the bar moves within the file
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\1")
    assert findings(saved) == [("llm/model.safetensors", "changed")]


def test_files_that_nothing_reads_and_the_state_of_a_training_are_not_findings(saved: Path) -> None:
    for name in (
        "wandb/run",
        "work/align/checkpoint-1/state.json",
        "metrics.jsonl",
        "rejected.jsonl",
        ".cache/x",
        "llm/.DS_Store",
    ):
        (saved / name).parent.mkdir(parents=True, exist_ok=True)
        (saved / name).write_text("x")
    assert not findings(saved)
    assert len(uncovered(saved)) == 6


def test_a_link_to_a_directory_is_extra_and_is_not_followed(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (saved / "more").symlink_to(tmp_path / "elsewhere")
    (saved / "round").symlink_to(saved)
    assert findings(saved) == [("more", "extra"), ("round", "extra")]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "llm/../../secret", "..\\secret", "a\0b"])
@pytest.mark.reliability(
    door="`vita verify`",
    fault="a provenance whose names lead out of the directory",
    expected="refused, unread",
)
def test_a_name_that_leads_out_is_refused_unread(saved: Path, name: str) -> None:
    (saved.parent / "secret").write_text("secret")
    write(saved, files={name: hashlib.sha256(b"secret").hexdigest()})
    assert (name, "refused") in findings(saved)


def test_what_is_not_a_file_is_missing(saved: Path) -> None:
    """A named pipe would be waited for, and a device has no end."""
    (saved / "config.yaml").unlink()
    os.mkfifo(saved / "config.yaml")
    (saved / "llm" / "tokenizer.json").unlink()
    (saved / "llm" / "tokenizer.json").symlink_to("/dev/zero")
    assert findings(saved) == [("config.yaml", "missing"), ("llm/tokenizer.json", "missing")]


def test_hashes_of_tensors_do_not_depend_on_the_metadata(saved: Path) -> None:
    from vita_core.untrusted.tensorfiles import tensors_sha256

    file = saved / "llm" / "model.safetensors"
    write(saved, tensors_sha256={"llm/model.safetensors": tensors_sha256(file)})
    save_file({"a": np.ones(4)}, file, {"one": "2"})
    assert not findings(saved)
    save_file({"a": np.ones(5)}, file)
    assert findings(saved) == [("llm/model.safetensors", "changed")]
    file.write_bytes((32).to_bytes(8, "little") + b"x" * 40)
    [row] = [row for row in Verification(saved).run() if row.status == "changed"]
    assert "llm/model.safetensors:1:1: not valid JSON" in row.reason


def test_an_early_training_has_the_hashes_of_its_weights_only(saved: Path) -> None:
    (saved / "projector.safetensors").write_bytes(b"weights")
    (saved / "reduce-0.safetensors").write_bytes(b"more")
    write(
        saved,
        projector_sha256=digest(saved / "projector.safetensors"),
        reduce_sha256={"reduce-0.safetensors": digest(saved / "reduce-0.safetensors")},
    )
    assert not findings(saved)
    assert [row.path for row in uncovered(saved)] == ["config.yaml", "llm/model.safetensors", "llm/tokenizer.json"]
    assert uncovered(saved)[0].reason == "provenance.json has no hash of it"
    (saved / "reduce-0.safetensors").write_bytes(b"less")
    assert findings(saved) == [("reduce-0.safetensors", "changed")]


def test_weights_that_lie_elsewhere(saved: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"base")
    files = {"config.yaml": digest(saved / "config.yaml")}
    local = {"weights": str(base), "revision": None, "files": {"model.safetensors": digest(base / "model.safetensors")}}
    one = {**local, "weights": str(base / "model.safetensors")}
    gone = {**local, "weights": str(tmp_path / "gone")}
    hub = {"weights": "owner/name", "revision": "a" * 40, "files": {}}
    sources = {
        "tower": {"parts": [local, hub]},
        "projector": gone,
        "llm": {"weights": None},
        "checkpoint": {"base": one},
    }
    write(saved, files=files, sources=sources)
    shutil.rmtree(saved / "llm")
    rows = [row for row in Verification(saved).run() if row.part]
    assert [(row.part, row.path, row.status) for row in rows] == [
        ("checkpoint.base", str(base / "model.safetensors"), "intact"),
        ("projector", str(tmp_path / "gone"), "not covered"),
        ("tower.parts.0", str(base / "model.safetensors"), "intact"),
        ("tower.parts.1", "owner/name", "not covered"),
    ]
    assert rows[3].reason == f"not a local path, of revision {'a' * 40}"
    (base / "model.safetensors").write_bytes(b"BASE")
    assert findings(saved) == [(str(base / "model.safetensors"), "changed")] * 2


def test_an_asset_in_the_cache_and_as_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))
    asset = ASSETS["mobilenet-v2"]
    record: dict[str, Any] = {"name": asset.name, "version": asset.version, "wheel_sha256": asset.wheel_sha256}
    record["files"] = {"config.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}}
    write(saved, files={"config.yaml": digest(saved / "config.yaml")}, weights={"tower": record})
    shutil.rmtree(saved / "llm")
    [row] = uncovered(saved)
    assert (row.path, row.part) == ("asset:mobilenet-v2", "tower")
    place = target(asset)
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / RECORD).write_text(json.dumps(record))
    assert not findings(saved)
    assert not uncovered(saved)
    assert not findings(place)
    (place / "config.json").write_text("[]")
    assert findings(saved) == [("asset:mobilenet-v2/config.json", "changed")]
    here = {**record, "files": {"config.json": {"sha256": hashlib.sha256(b"[]").hexdigest(), "bytes": 2}}}
    (place / RECORD).write_text(json.dumps(here))  # as another version of transformers writes it from the same wheel
    assert not findings(saved)
    (place / RECORD).write_text(json.dumps({**here, "wheel_sha256": "0" * 64}))
    assert findings(saved) == [("asset:mobilenet-v2/config.json", "changed")]
    (place / RECORD).write_text(json.dumps(record))
    (place / "more.bin").touch()
    assert findings(place) == [("config.json", "changed"), ("more.bin", "extra")]


def test_the_weights_of_the_shipped_config() -> None:
    """Its record is one of the earliest, and goes on being readable."""
    rows = {row.path: row.status for row in Verification(QUICKSTART).run() if not row.part}
    assert rows == {"LICENSE.md": "not covered", "projector.safetensors": "intact"}


def test_no_provenance(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no provenance\.json, .* Try: one of its directories saved"):
        Verification(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no provenance\.json, .* Try: a directory that vita train or"):
        Verification(saved / "llm")
    with pytest.raises(CheckpointError, match=r"save does not exist\. Did you mean 'saved'\? Try: the directory"):
        Verification(tmp_path / "save")
    with pytest.raises(CheckpointError, match=r"config\.yaml is not a directory"):
        Verification(saved / "config.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"provenance\.json has no hashes: none of files, tensors_sha256 and projector_sha256"),
        ('{"files": ["a"]}', r"provenance\.json: files: not a mapping of file names to SHA-256 hashes: \"\['a'\]\""),
        ('{"files": {"a": 1}}', r"provenance\.json: files: not a mapping of file names to SHA-256 hashes: '1'"),
        ('{"files": {"": "ab"}}', r"provenance\.json: files: not a mapping"),
        ('{"projector_sha256": null}', r"provenance\.json: projector_sha256: not a mapping"),
        ('{"tensors_sha256": "ab"}', r"provenance\.json: tensors_sha256: not a mapping"),
        ('{"projector_sha256": "a", "reduce_sha256": 1}', r"provenance\.json: reduce_sha256: not a mapping"),
        ("[]", r"provenance\.json:1:1: not a JSON object"),
        ("", r"provenance\.json:1:1: not valid JSON"),
    ],
)
@pytest.mark.reliability(
    door="`vita verify`",
    fault="a provenance that is broken",
    expected="an error that names the file",
)
def test_a_broken_provenance(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Verification(tmp_path)
