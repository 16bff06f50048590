"""Arguments that a shell or a stranger's file name makes odd: what the command line says of them can be read, and is true."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vita_core import load_config
from vita_core.cli import _failed, _one_line, _report, app
from vita_core.cli.exits import MISTAKE
from vita_core.errors import ConfigError, PictureError, VitaError, contents, dotted, nearest, nearest_path, split_advice
from vita_core.masking import masked
from vita_core.weights.assets import cache_dir


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "quickstart", "--out", ""], "--out"),
        (["train", "quickstart", "--out="], "--out"),
        (["data", "check", ""], "an argument"),
        (["plan", ""], "an argument"),
        (["run", "quickstart", "--image", "", "-q", ""], "--image"),
        (["plan", "--weights="], "--weights"),
    ],
)
@pytest.mark.reliability(
    door="command line", fault="a variable of the shell that is not set", expected="an error, not the working directory"
)
def test_empty_arguments(arguments: list[str], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: empty"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_question_may_be_empty(tmp_path: Path) -> None:
    for words in (["-q", ""], ["--question="], ["--system", ""]):
        with pytest.raises(VitaError, match="no picture is given"):
            CliRunner().invoke(app, ["run", str(tmp_path / "c.yaml"), *words], catch_exceptions=False)


@pytest.mark.reliability(
    door="every message",
    fault="a file name that steers a terminal or begins a line",
    expected="its control characters are escaped",
)
def test_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    error = PictureError("a\x1b[31m\r\x07\x9b\u202eb\tc\nerror: d: is bad. Try: another", "  e: f\ng")
    told = "a\\x1b[31m\\r\\x07\\x9b\\u202eb\tc\\nerror: d: is bad. Try: another\n  e: f\\ng"
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == told
    assert _one_line(UserWarning("a\nb\x1b[31m")) == "warning: a b\\x1b[31m\n"
    _report("\x1b]0;title\x07: No such file. Try: another\n")
    assert capsys.readouterr().err == "error: \\x1b]0;title\\x07: No such file. Try: another\n"


def test_the_advice_is_ours() -> None:
    """A value may say `Try:` too, and it comes first."""
    told = f"f.json: {dotted(['a', 'Try: b'])}: 'x. Try: c. Try: d' is not a number. Try: download it again"
    assert told.startswith("f.json: a.'Try: b': ")
    assert split_advice(told) == (told.rpartition(". Try")[0], "download it again")
    assert split_advice("no advice.") == ("no advice", "")
    several = ConfigError("a: bad. Try: first", "b: bad. Try: second")
    assert split_advice(str(several)) == ("a: bad", "first")
    assert str(ConfigError(*several.within("c"))) == "c: a: bad. Try: first\nc: b: bad. Try: second"


@pytest.mark.reliability(
    door="command line", fault="a link to nowhere", expected="an error that does not suggest itself"
)
def test_a_link_to_nowhere_is_not_suggested(tmp_path: Path) -> None:
    (tmp_path / "cat.png").symlink_to(tmp_path / "gone.png")
    assert nearest_path(tmp_path / "cat.png") == ""
    (tmp_path / "cat2.png").touch()
    assert nearest_path(tmp_path / "cat.png") == " Did you mean 'cat2.png'?"


def test_large_directories() -> None:
    assert nearest("a", (str(number) for number in range(10**9))) == ""


def test_what_a_directory_holds(tmp_path: Path) -> None:
    assert contents(tmp_path) == "nothing"
    for number in range(25):
        (tmp_path / f"{number:02}.png").touch()
    assert contents(tmp_path) == ", ".join(f"{number:02}.png" for number in range(10)) + " and 15 more"


@pytest.mark.reliability(door="YAML config", fault="a pipe", expected="an error that says so")
def test_a_config_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"c\.yaml: a device or a pipe, not a file"):
        CliRunner().invoke(app, ["plan", str(tmp_path / "c.yaml")], catch_exceptions=False)


def test_a_message_about_a_file_whose_name_is_that_of_a_secret() -> None:
    assert masked("/etc/passwd: no such file. Try: check the path") == "/etc/passwd: no such file. Try: check the path"
    assert masked("../api-key: it is empty") == "../api-key: it is empty"
    assert masked("passwd: hunter2 api_key=abc /etc/passwd=abc") == "passwd: *** api_key=*** /etc/passwd=***"


def test_the_advice_for_a_file_of_another_kind_can_be_followed(tmp_path: Path) -> None:
    wrong = tmp_path / "features.txt"
    with pytest.raises(ConfigError, match=r"Try: .*/features\.safetensors$") as raised:
        CliRunner().invoke(app, ["encode", "quickstart", "a.png", "--out", str(wrong)], catch_exceptions=False)
    assert str(raised.value).endswith(str(tmp_path / "features.safetensors"))


@pytest.mark.reliability(door="every path", fault="the home of an unknown user", expected="an error that says so")
def test_the_home_of_an_unknown_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VITA_CACHE", "~nobody-of-this-name/cache")
    assert cache_dir() == Path("~nobody-of-this-name/cache")
    with pytest.raises(RuntimeError) as raised:
        Path("~nobody-of-this-name/x").expanduser()
    assert _failed(raised.value) == MISTAKE
    assert "there is no user of that name" in capsys.readouterr().err


@pytest.mark.reliability(door="working directory", fault="it was deleted", expected="an error that says so")
def test_the_working_directory_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as raised:
        Path.cwd()
    assert _failed(raised.value) == MISTAKE
    assert "the working directory was deleted" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.reliability(door="stderr", fault="a full disk", expected="the exit code all the same")
def test_stderr_on_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "vita_core", "verify", "/gone"], stderr=full, check=False)
    assert done.returncode == MISTAKE


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_seeds_that_torch_does_not_take(seed: int, tiny_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.seed: wrong value"):
        load_config(tiny_config, [f"training.seed={seed}"])
