"""Tensor files that a stranger may have written."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vita_core.errors import CheckpointError
from vita_core.untrusted.tensorfiles import open_pickle, tensor_shapes, tensors_sha256


def header(content: Any, body: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(begin: int, end: int, **other: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **other}


SAFETENSORS = {
    "overlapping offsets": header({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
    "a hole": header({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
    "offsets behind the file": header({"a": tensor(0, 8)}, bytes(4)),
    "negative offsets": header({"a": tensor(-8, 0)}, bytes(8)),
    "an unknown dtype": header({"a": tensor(0, 8, dtype="Q99")}, bytes(8)),
    "another shape": header({"a": tensor(0, 8, shape=[3])}, bytes(8)),
    "a huge shape": header({"a": tensor(0, 8, shape=[2**40, 2**40])}, bytes(8)),
    "a negative shape": header({"a": tensor(0, 8, shape=[-2])}, bytes(8)),
    "nested deep": header(b'{"a":' * 100_000),
    "a list": header([1]),
    "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "nothing": b"",
    "a few bytes": b"abc",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_damaged_safetensors_name_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"cannot read .*x\.safetensors: it is truncated or not a safetensors file \("
    ):
        list(tensor_shapes([file]))


def test_a_header_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", 90_000_000) + b"{}")
        out.truncate(100_000_000)  # a hole, which takes no space
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="a header of 90,000,000 bytes, but at most 32,000,000 are read"):
            list(tensor_shapes([file]))
        with pytest.raises(CheckpointError, match="a header of 90,000,000 bytes, but at most 32,000,000 are read"):
            tensors_sha256(file)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_header_that_is_no_object_has_no_hash(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(header([1]))
    with pytest.raises(CheckpointError, match="its header is not a JSON object"):
        tensors_sha256(file)
    file.write_bytes(header({"a": {"dtype": "F32"}}))
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        tensors_sha256(file)


@pytest.mark.parametrize("cut", range(0, 400, 64))
def test_a_safetensors_file_that_is_cut_names_the_file(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(64), "b": torch.zeros(3, 2)}, file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"x\.safetensors: it is truncated or not a safetensors file"):
        list(tensor_shapes([file]))


PICKLES = {
    "text": (b"hello world", r"\(it begins with b'hello wo'\)"),
    "a page": (b"<!DOCTYPE html><html>", r"\(it begins with b'<!DOCTYP'\)"),
    "nothing": (b"", r"\(it is empty\)"),
    "a broken archive": (b"PK\x03\x04garbage", r"\(File is not a zip file\)"),
    "zeros": (bytes(1000), r"\(it begins with b'\\x00"),
    "a number": (b"\x80\x02K\x01.", r"\(Invalid magic number"),
    "a cut pickle": (b"\x80\x02}q\x00", r""),
}


@pytest.mark.parametrize(("content", "reason"), PICKLES.values(), ids=PICKLES)
def test_what_torch_did_not_write_is_told_in_plain_words(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*x\.pt: it is truncated or not a checkpoint ?" + reason):
        list(tensor_shapes([file]))


def test_an_archive_that_grows_when_it_is_read_is_not_opened(tmp_path: Path) -> None:
    """torch writes its archives uncompressed. A compressed one of a megabyte could hold a gigabyte."""
    plain = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, plain)
    file = tmp_path / "x.pt"
    with zipfile.ZipFile(plain) as stored, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.infolist():
            packed.writestr(entry.filename, stored.read(entry))
    with pytest.raises(
        CheckpointError, match=r"x\.pt: it is truncated or not a checkpoint \('.*' in it is compressed\)"
    ):
        list(tensor_shapes([file]))


def test_what_torch_writes_and_wrote_is_opened(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)}
    for new in (True, False):
        torch.save({"state_dict": state}, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        found = open_pickle(tmp_path / "x.pt")
        assert found.keys() == state.keys()
        assert torch.equal(found["a"], state["a"])
