"""No message, log, record or printed command holds a token, a password or the user of a URL."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import vita

from vita_core import build_model, load_config
from vita_core.cli import _one_line, _report
from vita_core.comparing.planned import Options, named
from vita_core.comparing.repeating import command, portable
from vita_core.comparing.running import Run, Runner
from vita_core.errors import ConfigError, VitaError
from vita_core.masking import masked, masked_data, masked_logs
from vita_core.plugins.discovery import describe
from vita_core.weights.sources import locate

TOKEN = "Zq7-made/up+secret=9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no https://me:pw@host/x. Try: it", "no https://***@host/x. Try: it"),
        ("http://me:a@b@host:8080/x", "http://***@host:8080/x"),
        ("git+https://onlytoken@host", "git+https://***@host"),
        ("https://host/f?X-Amz-Signature=ab12&part=3", "https://host/f?X-Amz-Signature=***&part=3"),
        ("https://host/f?token=ab12. Try: it", "https://host/f?token=***. Try: it"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic YWJj'}", "{'authorization': 'Basic ***'}"),
        ("run --api-key abc --hub-token=x y", "run --api-key *** --hub-token=*** y"),
        ('{"wandb_api_key": "abc", "n": 1}', '{"wandb_api_key": "***", "n": 1}'),
        ("password=hunter2, user=me", "password=***, user=me"),
        ("found hf_abcdefghijklmnopqrst here", "found *** here"),
        ("sk-proj-0123456789abcdef", "***"),
    ],
)
def test_secrets_are_known_by_their_place_or_shape(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "eos_token: <|im_end|>. prompt.image_token='<image>'. Try: `vita encode --tokens 4`",
        "https://host:8080/x@y?page=3",
        "no such key: 'task-classification-of-pictures'",
        "write to me@host.org",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "PGPASSWORD", "aws_secret_access_key", "APP_SECRET", "KEY"]
)
def test_values_of_secret_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, TOKEN)
    assert masked(f"a {TOKEN} b{TOKEN}c") == "a *** b***c"
    assert masked("as in a URL: Zq7-made%2Fup%2Bsecret%3D9") == "as in a URL: ***"


def test_the_password_of_a_package_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:pa55w%21rd@index/simple")
    assert masked("pa55w%21rd pa55w!rd") == "*** ***"


def test_variables_that_hold_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "encoder-width")
    monkeypatch.setenv("HF_TOKEN", "true")  # too short to hide anything
    monkeypatch.setenv("SSH_KEY", str(tmp_path))
    assert masked(f"encoder-width true {tmp_path}") == f"encoder-width true {tmp_path}"


@pytest.mark.reliability(
    door="messages, logs and records",
    fault="a secret in a variable, a URL or an argument",
    expected="it is masked",
)
def test_every_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert str(VitaError(f"no {TOKEN}")) == "no ***"
    with pytest.raises(ConfigError, match=r"no \*\*\*") as caught:
        raise ConfigError(f"no {TOKEN}")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(VitaError) as told:
        locate(f"https://me:{TOKEN}@host/weights")
    assert "made" not in str(told.value)


@pytest.mark.reliability(
    door="messages, logs and records",
    fault="a secret in a variable, a URL or an argument",
    expected="it is masked",
)
def test_what_the_command_line_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    _report(f"cannot open {TOKEN}. Try: x")
    assert capsys.readouterr().err == "error: cannot open ***. Try: x\n"
    assert _one_line(f"old {TOKEN}") == "warning: old ***\n"
    assert describe(RuntimeError(f"no {TOKEN}")) == "RuntimeError: no ***"


@pytest.mark.slow
@pytest.mark.reliability(
    door="messages, logs and records",
    fault="a secret in a variable, a URL or an argument",
    expected="it is masked",
)
def test_a_command_with_a_token_in_its_arguments() -> None:
    place = f"https://me:{TOKEN}@host/my-config.yaml"
    done = vita("plan", place, "--set", f"tower.weights={TOKEN}", HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "Zq7" not in done.stdout + done.stderr
    assert "***" in done.stderr


@pytest.mark.reliability(
    door="messages, logs and records",
    fault="a secret in a variable, a URL or an argument",
    expected="it is masked",
)
def test_logs_of_every_library(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = logging.getLogRecordFactory()
    try:
        masked_logs()
        masked_logs()
        logging.getLogger("a.library").warning("asked %s with %s", "https://u:p@host", TOKEN)
    finally:
        logging.setLogRecordFactory(before)
    assert caplog.messages == ["asked https://***@host with ***"]


def test_commands_and_configs_of_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    told = command(named(["a.yaml", "b.yaml"], [f"prompt.system={TOKEN}"]), Path("d.jsonl"), Options())
    assert "Zq7" not in told
    assert "prompt.system=***" in told
    assert portable({"system": [f"/a/b/{TOKEN}"]}) == {"system": ["***"]}


def test_a_config_of_a_comparison_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    planned: Any = SimpleNamespace(name="A")
    run, divided = Run(planned, None, 0, tmp_path), cast(Any, None)

    def work() -> None:
        raise RuntimeError(f"asked with {TOKEN}")

    runner = Runner(tmp_path, divided)
    assert runner._guarded(run, work) is None
    assert runner.failed == {"A": "RuntimeError: asked with ***"}
    told = (tmp_path / "error.txt").read_text(encoding="utf-8")
    assert "RuntimeError: asked with ***" in told
    assert "Zq7" not in told


@pytest.mark.reliability(
    door="messages, logs and records",
    fault="a secret in a variable, a URL or an argument",
    expected="it is masked",
)
def test_the_record_of_a_saved_model(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_model(load_config(tiny_config))
    monkeypatch.setenv("WANDB_API_KEY", "fixtures/golden")  # which the path of the tower's weights holds
    assert masked_data({"a": ["fixtures/golden", 1, None]}) == {"a": ["***", 1, None]}
    model.save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "provenance.json").read_text(encoding="utf-8"))
    assert record["sources"]["tower"]["weights"].endswith("/***/clip")
