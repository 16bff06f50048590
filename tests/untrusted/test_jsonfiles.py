"""JSON that a stranger may have written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from vita_core.errors import CheckpointError
from vita_core.untrusted.jsonfiles import BadJson, decode, parse_json, read_json, read_object
from vita_core.untrusted.limits import CONFIG, INDEX, Limits

REFUSED = {
    "deep lists": (b"[" * 100_000, r"x\.json:1:101: not a config: nested deeper than 100 levels\."),
    "deep and whole": (b"[" * 101 + b"]" * 101, r"x\.json:1:101: not a config: nested deeper than 100 levels"),
    "deep objects": (b'{"a":\n' * 100_000, r"x\.json:101:1: not a config: nested deeper than 100 levels"),
    "deep behind a bracket in a text": (b'["[", ' + b"[" * 101, r"x\.json:1:106: not a config: nested deeper"),
    "many values": (b"[" + b"[]," * 600_000 + b"[]]", r"not a config: it has more than 1,000,000 values"),
    "many bytes": (b'["' + b"a" * 16_000_000 + b'"]', r"not a config: it has more than 16,000,000 bytes"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", r"not valid JSON: Exceeds the limit \(4300 digits\)"),
    "equal keys": (b'{"a": 1, "b": {"c": 1, "c": 2}}', r"not valid JSON: the key 'c' stands twice in one object"),
    "half a character": (b'{"a": ["x\\ud800y"]}', r"not valid JSON: half a character in a text: \\ud800"),
    "no UTF-8": (b'{"a": "\xe9"}', r"not valid JSON: not UTF-8: invalid continuation byte at byte 7"),
    "no end": (b'{"a": 1,', r"x\.json:1:9: not valid JSON: Expecting property name"),
    "open text": (b'"\\"' * 1_000_000, r"not valid JSON"),
    "nothing": (b"", r"x\.json:1:1: not valid JSON: Expecting value"),
    "two": (b"{} {}", r"x\.json:1:4: not valid JSON: Extra data"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_has_a_place_and_a_reason_within_a_second(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        read_json(file)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "é\U0001f600", {"b": {}}], "]": '\\"[{', "": []},
        [[]] * 1000,
        "[" * 10_000,
        json.loads("[" * 100 + "]" * 100),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_python_writes_is_read(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), "x") == value


def test_the_numbers_of_python_are_left_to_who_uses_them() -> None:
    """Configs of Mamba hold Infinity."""
    assert str(decode("[NaN, Infinity, -Infinity, 1e999]")) == "[nan, inf, -inf, inf]"


def test_a_list_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"x\.json:1:1: not a JSON object: a list\. Try: "):
        read_object(tmp_path / "x.json")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(CheckpointError, match=r"x\.json: not a config: it is a device or a pipe\. Try: "):
        read_json(tmp_path / "x.json")
    with pytest.raises(CheckpointError, match=r"cannot read .*: \[Errno 21\] Is a directory"):
        read_json(tmp_path)


def test_a_file_is_called_what_its_limits_are_for(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[[[]]]")
    with pytest.raises(CheckpointError, match=r"x\.json:1:3: not a page: nested deeper than 2 levels"):
        read_json(tmp_path / "x.json", Limits(100, 100, 2, "page"))
    with pytest.raises(CheckpointError, match=r"x\.json: not a page: it has more than 5 bytes"):
        read_json(tmp_path / "x.json", Limits(5, 100, 2, "page"))


def test_deep_calls_of_the_caller_are_no_traceback() -> None:
    def deep(levels: int) -> Any:
        return deep(levels - 1) if levels else decode("[" * 90 + "]" * 90)

    for levels in range(850, 1000, 4):
        try:
            deep(levels)
        except BadJson as error:
            assert "nested too deep" in str(error)  # noqa: PT017  # the call itself may fail before
        except RecursionError:
            break


def test_the_index_of_a_model_of_a_trillion_parameters_is_read() -> None:
    names = {
        f"model.layers.{i // 1152}.mlp.experts.{i % 1152}.down_proj.weight_scale_inv": f"m-{i % 61:05}.safetensors"
        for i in range(150_000)
    }
    text = json.dumps({"metadata": {"total_size": 10**12}, "weight_map": names}, indent=2)
    start = time.process_time()
    assert decode(text, INDEX)["weight_map"] == names
    assert time.process_time() - start < 2
    assert CONFIG.bytes < INDEX.bytes
