"""Broken inputs: what a stranger's file may hold. Mutations of every key, texts that are hard to parse, and random bytes.

`make test` runs the strategies with few, fixed examples; `make stress` runs the same ones for long (tests/outside/).
"""

from __future__ import annotations

import copy
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

STRESSED = "STRESS_SECONDS" in os.environ
FEW = settings(
    derandomize=not STRESSED,
    max_examples=500 if STRESSED else 12,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""What `make test` runs: a few examples, the same ones each time. `make stress` tries many others."""
Key = tuple[str | int, ...]
MISSING = object()
VALUES: dict[str, Any] = {
    "a text": "many",
    "a list": [3, "a"],
    "an empty list": [],
    "a mapping": {"a": {}},
    "true": True,
    "a fraction": 0.5,
    "0": 0,
    "-1": -1,
    "10^9": 10**9,
    "not a number": math.nan,
    "null": None,
    "missing": MISSING,
}
"""What takes the place of a value, each under the name of its fault."""
DEEP = 100_000
HARD_JSON: dict[str, bytes] = {
    "empty": b"",
    "cut short": b'{"a": [1, 2',
    "two values": b"{} {}",
    "a list": b"[1]",
    "a number": b"5",
    "null": b"null",
    "lists nested 100,000 deep": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "mappings nested 100,000 deep": b'{"a": ' * DEEP + b"1" + b"}" * DEEP,
    "nested and never closed": b"[" * DEEP,
    "a number of 10,000 digits": b'{"hidden_size": ' + b"9" * 10_000 + b"}",
    "a number beyond any float": b'{"hidden_size": 1e999, "image_mean": [1e999]}',
    "infinity": b'{"hidden_size": Infinity, "image_std": [-Infinity]}',
    "a key twice": b'{"model_type": "clip", "model_type": "siglip_vision_model"}',
    "bytes that are no UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "null bytes": b"\0" * 64,
    "half of a character": b'{"model_type": "\\ud800", "a\\udfff": 1}',
    "a comment": b'{"a": 1 /* one */}',
    "a million values": b'{"a": [' + b"1," * 1_000_000 + b"1]}",
    "not a config": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}
"""Files that a JSON parser may fall over, by the kind of fault."""


def keys(data: Any, key: Key = ()) -> Iterator[Key]:
    """Every key of nested mappings and lists; of a list its first element stands for all."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield (*key, name)
            yield from keys(value, (*key, name))
    elif isinstance(data, list) and data:
        yield (*key, 0)
        yield from keys(data[0], (*key, 0))


def changed(data: Any, key: Key, value: Any) -> Any:
    """A copy of `data` whose value at `key` is replaced, or removed if it is `MISSING`."""
    made = copy.deepcopy(data)
    place = made
    for part in key[:-1]:
        place = place[part]
    if value is MISSING:
        del place[key[-1]]
    else:
        place[key[-1]] = value
    return made


SCALARS = st.one_of(
    st.sampled_from([value for value in VALUES.values() if value is not MISSING]),
    st.integers(-(2**70), 2**70),
    st.integers(0, 4096),
    st.floats(),
    st.text(max_size=12),
    st.booleans(),
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed_data(draw: st.DrawFn, data: Any) -> Any:
    """`data` with up to three of its values replaced or removed, and perhaps a new key."""
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*keys(data)]))
        data = changed(data, key, draw(DATA | st.just(MISSING)))
        if not [*keys(data)]:
            return data
    if isinstance(data, dict) and draw(st.booleans()):
        data = {**data, draw(st.text(max_size=8)): draw(DATA)}
    return data


def json_files(data: Any) -> st.SearchStrategy[bytes]:
    """JSON files: `data` with other values, or its text with other bytes."""
    whole = json.dumps(data).encode()
    return st.one_of(changed_data(data).map(lambda made: json.dumps(made).encode()), changed_bytes(whole))


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes, first: int = 0) -> bytes:
    """`whole` with up to four edits behind its first bytes: a bit, a byte, a number, a cut, a piece doubled or taken out."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(first, max(first, len(data))))
        size = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["bit", "bytes", "number", "cut", "double", "remove", "insert"]))
        if kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "bytes":
            data[at : at + size] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "number":
            form = draw(st.sampled_from(["<I", ">I", "<Q", "<H", ">H"]))
            most = 256 ** struct.calcsize(form) - 1
            number = draw(st.sampled_from([0, 1, most, most // 2, most // 2 + 1]) | st.integers(0, most))
            data[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == "cut":
            del data[at:]
        elif kind == "double":
            data[at:at] = data[at : at + size]
        elif kind == "remove":
            del data[at : at + size]
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def png_files(draw: st.DrawFn, whole: bytes) -> bytes:
    """PNG files whose chunks have other content but the right checksums, so that decoders go on to read them."""
    place, made = 8, bytearray(whole[:8])
    while place < len(whole):
        (size,) = struct.unpack(">I", whole[place : place + 4])
        kind, content = whole[place + 4 : place + 8], whole[place + 8 : place + 8 + size]
        if draw(st.booleans()):
            content = draw(changed_bytes(content))
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        place += 12 + size
    return bytes(made)


@st.composite
def safetensors_files(draw: st.DrawFn, whole: bytes) -> bytes:
    """Safetensors files with another header (offsets, dtypes, shapes, names, its length), or with other bytes."""
    if draw(st.booleans()):
        return draw(changed_bytes(whole))
    (size,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(key for key in header if key != "__metadata__") or [""]))
        numbers = st.integers(-2, len(data) + 2) | st.sampled_from([2**31, 2**63, 2**64, -1, 10**9])
        field, value = draw(
            st.one_of(
                st.tuples(st.just("data_offsets"), st.lists(numbers, max_size=3)),
                st.tuples(st.just("shape"), st.lists(numbers, max_size=4)),
                st.tuples(st.just("dtype"), st.sampled_from(["F64", "F32", "I8", "BOOL", "F8_E4M3", "F4", "", "X"])),
                st.tuples(st.sampled_from(["data_offsets", "shape", "dtype", "more"]), DATA),
            )
        )
        if isinstance(header.get(key), dict):
            header[key] = {**header[key], field: value}
        if draw(st.booleans()):
            header = draw(changed_data(header))
        if not isinstance(header, dict):
            break
    text = json.dumps(header).encode()
    stated = draw(st.just(len(text)) | st.integers(0, 2**64 - 1) | st.integers(0, len(text) + 16))
    return struct.pack("<Q", stated) + text + data
