"""YAML that no sane person writes, and that every config file must survive."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from vita_core.errors import ConfigError
from vita_core.untrusted.yamlfiles import MOST_BYTES, parse_value, read_yaml

LAUGHS = "".join(
    f"{key}: &{key} [{', '.join([f'*{below}'] * 9)}]\n"
    for below, key in zip("0abcdefghijk", "abcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: \x07\n", r":2:4: not valid YAML: character #x0007 is not allowed"),
        ("a:\n\tb: 1\n", r":2:1: not valid YAML: found character '\\t'"),
        ("a: &x\n  b: *x\n", r":1:4: nested deeper than 50 levels"),
        ("a: " + "[" * 60 + "]" * 60, r":1:5\d: nested deeper than 50 levels"),
        ("a: " + "[" * 3000 + "]" * 3000, r":1:5\d: nested deeper than 50 levels"),
        ("0: &0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + LAUGHS, r"more than 10,000 values, counting every use of an alias"),
        ("k: [" + "1, " * 300_000 + "1]", r":1:\d+: more than 10,000 values"),
        ("".join(f"k{i}: 1\n" for i in range(90_000)), r":10000:8: more than 10,000 values"),
        ("#" * (MOST_BYTES + 1), r":1:1: the file is too large: 1,000,001 bytes. A config has at most 1,000,000"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", r":3:3: `<<` is not part of YAML 1.2. Try: `extends`"),
        ("? [a, b]\n: c\n", r":1:3: the key is a list or a mapping"),
        ("a: !!int one\n", r":1:4: the value does not match its tag 'tag:yaml.org,2002:int': 'one'"),
        ("a: !!bool maybe\n", r":1:4: the value does not match its tag 'tag:yaml.org,2002:bool': 'maybe'"),
        (
            "a: !!timestamp 2024-13-41\n",
            r":1:4: the value does not match its tag 'tag:yaml.org,2002:timestamp': '2024-13-41'",
        ),
        ("a: !!python/name:os.system\n", r":1:4: not valid YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", r":2:1: not valid YAML: but found another document"),
        ("a: *nowhere\n", r":1:4: not valid YAML: found undefined alias"),
    ],
)
def test_what_is_refused_has_a_place_and_takes_no_time(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigError, match=message):
        read_yaml(file)
    assert time.process_time() - start < 4  # without a limit, a file of 1 MB takes half a minute


def test_bytes_that_are_no_utf8_are_told(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"a: caf\xe9\n")
    with pytest.raises(ConfigError, match=r":1:1: cannot be read: .*can't decode byte 0xe9"):
        read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1:30", "1:30"),  # no base 60
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e-4", 1e-4),
        ("5e3", 5e3),
        (".5", 0.5),
        ("yes", "yes"),
        ("off", "off"),
        ("True", True),
        ("~", None),
        ("", None),
        ("=", "="),
        ("[1, a, null]", [1, "a", None]),
        ("&x a", "a"),
    ],
)
def test_plain_values_are_yaml_1_2s(text: str, value: Any) -> None:
    found = parse_value(text, "--set x")
    assert found == value
    assert type(found) is type(value)


def test_an_alias_stands_for_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("\ufefftower: {dtype: &d float16}\nllm: {dtype: *d}\n", encoding="utf-8")  # with a byte order mark
    assert read_yaml(file).data == {"tower": {"dtype": "float16"}, "llm": {"dtype": "float16"}}
