"""What a machine can do to a command: closed and full outputs, odd names, a foreign locale, an interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import vita
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

VITA = [sys.executable, "-m", "vita_core"]


def start(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*VITA, *map(os.fspath, arguments)], check=False, timeout=300, **options)


def test_a_closed_output_is_no_mistake() -> None:
    for arguments in (["towers"], ["towers", "--json"], ["plugins"]):
        script = subprocess.list2cmdline([*VITA, *arguments]) + " >&-"
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, whose every write fails")
def test_a_full_disk_under_the_output_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        done = start("towers", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"No space left" in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", subprocess.list2cmdline([*VITA, "plugins", "--json"]) + " | head -c 1"],
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"[", b"")


def test_a_file_name_that_is_no_utf8(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    picture = tmp_path / os.fsdecode(b"caf\xe9.png")
    picture.write_bytes((golden / "pictures" / "wide.png").read_bytes())
    out = tmp_path / "out.safetensors"
    done = start("encode", tiny_config, picture, "--out", out, "--json", capture_output=True)
    assert done.returncode == 0, done.stderr
    assert [*load_file(out)] == [str(tmp_path / "caf\\xe9.png")]
    assert json.loads(done.stdout)["pictures"][0]["shape"] == [1, 16, 32]
    lost = start("encode", tiny_config, tmp_path / os.fsdecode(b"n\xe9.png"), "--out", out, capture_output=True)
    assert lost.returncode == 2
    assert b"no such file" in lost.stderr


def test_a_locale_that_knows_ascii_alone(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    picture, out = tmp_path / "été 猫.png", tmp_path / "é.safetensors"
    picture.write_bytes((golden / "pictures" / "wide.png").read_bytes())
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = start("encode", tiny_config, picture, "--out", out, capture_output=True, env={**os.environ, **ascii_only})
    assert done.returncode == 0, done.stderr
    assert [*load_file(out)] == [str(picture)]


@pytest.mark.parametrize("place", ["config", "picture", "weights", "out"])
def test_names_that_are_too_long(place: str, tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    picture, out, long = golden / "pictures" / "wide.png", tmp_path / "out.safetensors", "a" * 300
    done = vita(
        "encode",
        long if place == "config" else tiny_config,
        long if place == "picture" else picture,
        "--out",
        tmp_path / f"{long}.safetensors" if place == "out" else out,
        *(["--set", f"tower.weights=./{long}"] if place == "weights" else []),
    )
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_home(tiny_config: Path) -> None:
    bare = {key: value for key, value in os.environ.items() if key not in ("HOME", "VITA_CACHE", "XDG_CACHE_HOME")}
    assert start("plan", tiny_config, capture_output=True, env=bare).returncode == 0


def test_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from vita_core.cli.common import print_table

    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table("Title [not markup]", ["name", "what"], [("clip", "a longer text [red]")])
    shown = capsys.readouterr().out
    assert "clip" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "[not" in shown  # brackets are text


def test_ctrl_c_leaves_nothing_behind(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "features.safetensors"
    out.parent.mkdir()
    slow = tmp_path / "slow_plugin.py"
    slow.write_text("import sys, time\nprint('ready', file=sys.stderr, flush=True)\ntime.sleep(60)\n")
    arguments = ["-p", "slow_plugin", "encode", tiny_config, golden / "pictures" / "wide.png", "--out", out]
    running = subprocess.Popen([*VITA, *map(str, arguments)], stderr=subprocess.PIPE, cwd=tmp_path)
    assert running.stderr is not None
    assert running.stderr.readline() == b"ready\n"
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in told
    assert not list(out.parent.iterdir())


def test_a_map_that_cannot_be_written_leaves_no_features(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "out.safetensors", golden / "pictures" / "wide.png"
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "map.png", tmp_path / "map.jpg", out):
        done = vita("encode", tiny_config, picture, "--out", out, "--picture-map", wrong)
        assert done.returncode == 2, done.stderr
        assert str(wrong) in done.stderr
        assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "device: wrong value: 'meta'"),
        ("nonsense", "device: wrong value: 'nonsense'"),
        ("cuda:77", "device: 'cuda:77' cannot be used here"),
        ("hpu", "device: 'hpu' cannot be used here"),
    ],
)
def test_a_device_that_is_not_there(device: str, message: str, tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    picture, out = golden / "pictures" / "wide.png", tmp_path / "out.safetensors"
    done = vita("encode", tiny_config, picture, "--out", out, "--set", f"device={device}")
    assert done.returncode == 2
    assert message in done.stderr
    assert not out.exists()
