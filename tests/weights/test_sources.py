"""Which files are read: of a directory, and of a hub that runs on this machine and counts what is fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN, close
from safetensors.torch import load_file

from vita_core import build_tower, make_plan
from vita_core.errors import CheckpointError
from vita_core.untrusted.jsonfiles import read_object
from vita_core.weights.shards import choose_file, shard_names

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAFE_FIRST = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "*.pt")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "a.pt", "b.pt"], "model.safetensors"),
        (["pytorch_model.bin", "model.safetensors.index.json", "m-1.safetensors"], "model.safetensors.index.json"),
        (["config.json", "a.pt"], "a.pt"),
    ],
)
def test_the_first_pattern_that_matches_chooses(names: list[str], chosen: str) -> None:
    assert choose_file(names, SAFE_FIRST, "here") == chosen


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b.pt", "a.pt"], r"here holds 2 weight files: a.pt, b.pt\. Try: .*`weights: ./a.pt`"),
        (["config.json"], r"here holds no weight file: it holds config.json\. Try: .*model.safetensors, "),
        ([], "it holds nothing"),
        ([f"{place:02}.png" for place in range(25)], r"it holds 00\.png, .*, 19\.png and 5 more\. Try: "),
    ],
)
def test_what_cannot_be_chosen_is_told(names: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        choose_file(names, SAFE_FIRST, "here")


class Hub(ThreadingHTTPServer):
    """The part of the hub's protocol that a download needs. `repositories`: id -> directory; `fetched`: what was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Path] = {}
        self.fetched: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            repository = path.removeprefix("api/models/").partition("/tree/")[0]
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(self.server.repositories[repository].iterdir())
            ]
            self.answer(json.dumps(files).encode())
            return
        repository, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        file = self.server.repositories[repository] / name
        if not file.is_file():
            self.answer(b"", status=404, error="EntryNotFound")
            return
        if self.command == "GET":
            self.server.fetched.append(name)
        self.answer(file.read_bytes())

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, body: bytes, status: int = 200, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def put(folder: Path, **files: bytes | Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return folder


def test_a_hub_that_takes_no_connection_is_asked_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub would ask again and again for 23 seconds."""
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", lambda *_, **__: pytest.fail("asked again"))
    hub.shutdown()
    hub.server_close()
    with pytest.raises(CheckpointError, match=r"cannot get some/clip from the hub: .*refused\. Try: check the network"):
        build_tower({"weights": "some/clip"})


def test_only_the_chosen_file_of_a_repository_is_fetched(hub: Hub, tmp_path: Path) -> None:
    clip = GOLDEN / "clip"
    files = {name: clip / name for name in ("config.json", "preprocessor_config.json", "model.safetensors")}
    hub.repositories["some/clip"] = put(
        tmp_path / "clip", **files, **{"pytorch_model.bin": b"x", "flax_model.msgpack": b"x", "merges.txt": b"x"}
    )
    expected = load_file(clip / "expected.safetensors")
    tower = build_tower({"weights": "some/clip"})
    close(tower(expected["pixel_values"]), expected["features"])
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_the_config_of_open_clip_is_fetched_for_its_tower(
    hub: Hub, tmp_path: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    """Such repositories hold the same model for transformers too."""
    import torch

    own, clip = Path(tower_examples["open_clip"]["weights"]), GOLDEN / "clip"
    files = {name: own / name for name in ("open_clip_config.json", "open_clip_model.safetensors")}
    files |= {name: clip / name for name in ("config.json", "preprocessor_config.json", "model.safetensors")}
    hub.repositories["some/open-clip"] = put(tmp_path / "open-clip", **files)
    tower = build_tower({"type": "open_clip", "weights": "some/open-clip", "revision": COMMIT})
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= {*hub.fetched}
    assert "model.safetensors" not in hub.fetched
    pixels = torch.rand(1, 3, 56, 56)
    assert torch.equal(tower(pixels), build_tower(tower_examples["open_clip"])(pixels))
    assert build_tower({"weights": "some/open-clip"}).resolved.spec.name == "clip"


def test_shards_are_fetched_by_their_index(hub: Hub, tmp_path: Path) -> None:
    import torch

    state = load_file(GOLDEN / "clip" / "model.safetensors")
    keys = sorted(state)
    folder = put(tmp_path / "clip", **{"config.json": GOLDEN / "clip" / "config.json", "other-3.bin": b"x"})
    parts = {"part-1.bin": keys[::2], "part-2.bin": keys[1::2]}
    for name, part in parts.items():
        torch.save({key: state[key] for key in part}, folder / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    hub.repositories["some/sharded"] = folder
    expected = load_file(GOLDEN / "clip" / "expected.safetensors")
    close(build_tower({"weights": "some/sharded"})(expected["pixel_values"]), expected["features"])
    assert sorted(hub.fetched) == ["config.json", "part-1.bin", "part-2.bin", "pytorch_model.bin.index.json"]


def test_a_repository_without_a_config_has_its_published_geometry(hub: Hub, tmp_path: Path) -> None:
    names = ("EVA02_CLIP_L_336_psz14_s6B.pt", "EVA02_CLIP_B_psz16_s8B.pt", "EVA01_CLIP_g_14_psz14_s11B.pt")
    tiny = GOLDEN / "eva_clip" / "EVA02_CLIP_tiny_psz14.pt"
    hub.repositories["QuanSun/EVA-CLIP"] = put(tmp_path / "eva", **dict.fromkeys(names, tiny))
    tower = build_tower({"weights": "QuanSun/EVA-CLIP", "delay_load": True})
    assert tower.resolved.rule == "known hub id QuanSun/EVA-CLIP"
    assert (tower.hidden_size, tower.num_tokens, hub.fetched) == (1024, 576, [])
    assert [file.name for file in tower.resolved.source.files(tower.resolved.spec.weight_files)] == [names[0]]
    assert hub.fetched == [names[0]]


def test_a_repository_that_nobody_knows_says_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["some/bare"] = put(tmp_path / "bare", **{"model.safetensors": b"x"})
    with pytest.raises(
        CheckpointError, match=r"some/bare has no config: none of config.json, .*no plugin knows its geometry"
    ):
        build_tower({"type": "clip", "weights": "some/bare"})
    assert hub.fetched == []


def test_what_was_fetched_once_opens_without_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    hub.repositories["some/clip"] = put(tmp_path / "clip", **{name: GOLDEN / "clip" / name for name in names})
    build_tower({"weights": "some/clip"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = load_file(GOLDEN / "clip" / "expected.safetensors")
    close(build_tower({"weights": "some/clip"})(expected["pixel_values"]), expected["features"])


def test_a_plan_asks_no_hub(hub: Hub, tiny_llm: Path) -> None:
    plan = make_plan({"tower": {"weights": "QuanSun/EVA-CLIP"}, "llm": {"weights": str(tiny_llm)}})
    assert (plan.tower, plan.tokens, hub.fetched) == ("eva_clip", 576, [])
    assert plan.rule == "known hub id QuanSun/EVA-CLIP"


@pytest.mark.parametrize("shard", ["../elsewhere.safetensors", "/etc/hostname", "sub/model.safetensors", "", None, 5])
def test_an_index_names_only_files_beside_it(shard: object, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": shard}}))
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map: not the name of a file beside it"):
        shard_names(index)


def test_a_config_nested_too_deep_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json:1:601: not a config: nested deeper than 100 levels"):
        read_object(tmp_path / "config.json")
