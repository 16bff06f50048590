"""Names of files that a stranger's index states, and links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vita_core.errors import CheckpointError
from vita_core.untrusted.files import inside
from vita_core.weights.shards import local_files
from vita_core.weights.sources import locate

SHARD = "model-00001-of-00001.safetensors"


def sharded(folder: Path, name: object, index: str = "model.safetensors.index.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / index).write_text(json.dumps({"weight_map": {"a": name}}))
    return folder


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    "name",
    ["../elsewhere.safetensors", "../../elsewhere.safetensors", "{root}/elsewhere.safetensors", "sub/x.safetensors",
     "..\\elsewhere.safetensors", "..", ".", "", "a\0b", "/", 3, None, ["x"], {"x": 1}],
)  # fmt: skip
def test_an_index_names_only_files_beside_it(tmp_path: Path, name: object, index: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "elsewhere.safetensors")
    named = name.format(root=tmp_path) if isinstance(name, str) else name
    folder = sharded(tmp_path / "a" / "model", named, index)
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map: not the name of a file beside it: "):
        locate(str(folder)).files(("*.index.json",))
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map: not the name of a file beside it: "):
        locate(str(folder)).keys(("*.index.json",))


def test_a_shard_that_is_a_link_out_of_its_directory_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "elsewhere.safetensors")
    folder = sharded(tmp_path / "model", SHARD)
    (folder / SHARD).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"index\.json: '{SHARD}' is a link out of its directory, to .*elsewhere"
    ):
        local_files(folder, ("*.index.json",), str(folder))
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is a link out of its directory, to /dev/zero"):
        local_files(folder, ("*.index.json",), str(folder))


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--o--n" / "blobs", tmp_path / "models--o--n" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, blobs / "0123")
    sharded(snapshot, SHARD)
    (snapshot / SHARD).symlink_to(Path("../../blobs/0123"))
    assert local_files(snapshot, ("*.index.json",), "o/n") == [snapshot / SHARD]
    linked = tmp_path / "mine"
    linked.symlink_to(snapshot)  # the user's own link to the directory
    assert local_files(linked, ("*.index.json",), "o/n") == [linked / SHARD]
    (snapshot / SHARD).unlink()
    (snapshot / SHARD).symlink_to(Path("../../../blobs/0123"))
    with pytest.raises(CheckpointError, match="is a link out of its directory"):
        local_files(snapshot, ("*.index.json",), "o/n")


def test_a_link_within_the_directory_is_followed(tmp_path: Path) -> None:
    folder = sharded(tmp_path, SHARD)
    save_file({"a": torch.zeros(1)}, folder / "real.safetensors")
    (folder / SHARD).symlink_to("real.safetensors")
    assert local_files(folder, ("*.index.json",), str(folder)) == [folder / SHARD]
    with pytest.raises(CheckpointError, match=r"listed: not the name of a file beside it: '\.\./x'"):
        inside(folder, "../x", folder / "listed")
