"""Files that are hard to read, at each door: JSON, YAML, indices, pictures, archives and tables that attack their parser."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples
from conftest import GOLDEN
from inputs import HARD_JSON
from law import holds

pytestmark = pytest.mark.slow
LAW = "a result, or an error that names the file"


def row(door: str, cases: dict[str, Any]) -> list[Any]:
    """The cases of a door, each with its row of docs/reliability.md."""
    mark = pytest.mark.reliability
    return [
        pytest.param(case, id=name, marks=mark(door=door, fault=name, expected=LAW)) for name, case in cases.items()
    ]


JSON_DOORS = {
    "config.json": "doors:plan_checkpoint",
    "preprocessor_config.json": "doors:encode_checkpoint",
    "model.safetensors.index.json": "doors:encode_checkpoint",
    "open_clip_config.json": "doors:plan_checkpoint",
    "rows.jsonl": "doors:read_data",
    "rows.json": "doors:read_data",
}


@pytest.mark.parametrize("file", JSON_DOORS)
@pytest.mark.parametrize("content", row("every JSON file", HARD_JSON))
def test_json(content: bytes, file: str, tmp_path: Path) -> None:
    if file.startswith("rows."):
        (tmp_path / file).write_bytes(content)
        holds(JSON_DOORS[file], tmp_path / file, warm=(samples.data_file(),))
        return
    work = samples.copied("clip", tmp_path, **{file: content})
    if file.startswith("model."):
        (work / "model.safetensors").unlink()
    if file.startswith("open_clip"):
        (work / "config.json").unlink()
    holds(JSON_DOORS[file], work, names=[file, str(work)], warm=(GOLDEN / "clip",))


OUTSIDE = "the weights of another directory"
INDICES: dict[str, Any] = {
    "no weight_map": {"metadata": {}},
    "weight_map is null": {"weight_map": None},
    "weight_map is a list": {"weight_map": ["model.safetensors"]},
    "weight_map is empty": {"weight_map": {}},
    "a shard above the directory": {"weight_map": {"a": "../outside/model.safetensors"}},
    "a shard with an absolute path": {"weight_map": {"a": OUTSIDE}},
    "a shard of Windows' paths": {"weight_map": {"a": "..\\outside\\model.safetensors"}},
    "a shard without a name": {"weight_map": {"a": ""}},
    "a shard that is the directory": {"weight_map": {"a": "."}},
    "a shard that is the index itself": {"weight_map": {"a": "model.safetensors.index.json"}},
    "a shard that is a number": {"weight_map": {"a": 5}},
    "a shard that is a list": {"weight_map": {"a": ["model.safetensors"]}},
    "a shard with a null byte": {"weight_map": {"a": "model\0.safetensors"}},
    "a shard with a name of 10,000 letters": {"weight_map": {"a": "a" * 10_000}},
    "a shard that is missing": {"weight_map": {"a": "model-9.safetensors"}},
    "a shard that is a link to a directory": {"weight_map": {"a": "linked.safetensors"}},
    "10,000 shards": {"weight_map": {str(number): f"{number}.safetensors" for number in range(10_000)}},
}


@pytest.mark.parametrize("index", row("index of shards", INDICES))
def test_indices(index: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.safetensors").write_bytes(samples.weights())
    text = json.dumps(index).replace(OUTSIDE, str(outside / "model.safetensors"))
    work = samples.copied("clip", tmp_path, **{"model.safetensors.index.json": text.encode()})
    (work / "model.safetensors").unlink()
    (work / "linked.safetensors").symlink_to(outside, target_is_directory=True)
    names = ["model.safetensors.index.json", "linked.safetensors"]
    assert holds("doors:encode_checkpoint", work, names=names, warm=(GOLDEN / "clip",)).kind == "refused"


def bomb(uses: int) -> str:
    """Aliases of aliases: nine to the power of their number of values."""
    lines = [f"a0: &a0 {['x'] * 9}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, uses)]
    return "\n".join(lines)


YAML: dict[str, str | bytes] = {
    "empty": "",
    "a list": "- 1",
    "two documents": "a: 1\n---\nb: 2",
    "aliases of aliases": bomb(9),
    "an alias of itself": "tower: &a {weights: *a}",
    "an alias of its own list": "tower: &a\n  - *a",
    "lists nested 100,000 deep": "tower: " + "[" * 100_000 + "]" * 100_000,
    "mappings nested 10,000 deep": "".join(" " * depth + "a:\n" for depth in range(10_000)),
    "a tag that makes an object": "tower: !!python/object/apply:os.system ['true']",
    "a tag that imports": "tower: !!python/name:os.system",
    "a tag that does not fit": "tower: !!int many",
    "a timestamp": "tower: {weights: 2001-01-01}",
    "a number of 10,000 digits": "tower: {select_layer: " + "9" * 10_000 + "}",
    "a hexadecimal of 100,000 digits": "tower: {select_layer: 0x" + "f" * 100_000 + "}",
    "a float beyond any": "generation: {temperature: 1e999}",
    "not a number": "generation: {temperature: .nan}",
    "a key twice": "tower: {weights: ./a}\ntower: {weights: ./b}",
    "a merge key": "a: &a {weights: ./a}\ntower: {<<: *a}",
    "a key that is a list": "? [a, b]\n: 1",
    "a tab": "tower:\n\tweights: ./a",
    "bytes that are no UTF-8": b"tower: {weights: \xff}",
    "null bytes": b"tower: {weights: \0}",
    "a million characters in one line": "tower: {weights: " + "a" * 999_000 + "}",
    "a bracket that is not closed": "tower: {weights: [",
    "100,000 brackets that are not closed": "tower: " + "[{" * 50_000,
    "it extends itself": "extends: case.yaml",
    "it extends a device": "extends: /dev/zero",
    "it extends a number": "extends: 5",
    "a path with a null byte": 'tower: {weights: "a\\0b"}',
    "an unknown user's home": "tower: {weights: ~nobody-of-this-name/a}",
}


@pytest.mark.parametrize("text", row("YAML config", YAML))
def test_yaml(text: str | bytes, tmp_path: Path) -> None:
    file, valid = tmp_path / "case.yaml", tmp_path / "valid.yaml"
    valid.write_text(json.dumps(samples.CONFIG))
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    holds("doors:read_config", file, warm=(valid,))


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any stated size and chunks, with the right checksums."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    made = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in made
    )


ZEROS = zlib.compress(bytes(64 << 20), 9)


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF with one directory of these entries: tag, kind, count, value."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following)


def cut(kind: str, part: float) -> bytes:
    whole = samples.picture(kind)
    return whole[: int(len(whole) * part)]


SIZE = [(256, 4, 1, 40), (257, 4, 1, 30)]
PICTURES: dict[str, bytes] = {
    "a PNG that says 100,000 x 100,000 pixels": png(100_000, 100_000, (b"IDAT", ZEROS)),
    "a PNG that says 2^31 x 1 pixels": png(2**31 - 1, 1, (b"IDAT", ZEROS)),
    "a PNG without pixels": png(40, 30),
    "a PNG of 0 x 0 pixels": png(0, 0, (b"IDAT", ZEROS)),
    "a PNG with 64 MB behind its pixels": png(40, 30, (b"IDAT", ZEROS)),
    "a PNG with a text that unpacks to 64 MB": png(40, 30, (b"zTXt", b"a\0\0" + ZEROS), (b"IDAT", ZEROS)),
    "a PNG with a profile that unpacks to 64 MB": png(40, 30, (b"iCCP", b"a\0\0" + ZEROS), (b"IDAT", ZEROS)),
    "a PNG with 100,000 chunks": png(40, 30, *[(b"tEXt", b"a\0b")] * 100_000),
    "a PNG whose animation says 2^31 frames": png(40, 30, (b"acTL", struct.pack(">II", 2**31 - 1, 0)), (b"IDAT", ZEROS)),
    "a GIF that says 65,535 x 65,535 pixels": b"GIF89a" + b"\xff" * 4 + samples.picture("GIF")[10:],
    "a JPEG that says 65,535 x 65,535 pixels": samples.picture("JPEG").replace(
        struct.pack(">HH", 30, 40), b"\xff\xff\xff\xff"
    ),
    "a TIFF whose directory follows itself": tiff(SIZE, 8),
    "a TIFF with a tag of 4 billion values": tiff([*SIZE, (270, 2, 2**32 - 1, 8)]),
    "a TIFF without a size": tiff([(258, 3, 1, 8)]),
    "a TIFF whose strips are elsewhere": tiff([*SIZE, (273, 4, 1, 2**31), (279, 4, 1, 2**31)]),
    "a WebP that says another length": b"RIFF" + b"\xff" * 4 + samples.picture("WEBP")[8:],
    "an AVIF with a box of length 0": b"\0\0\0\0" + samples.picture("AVIF")[4:],
    "text": b"hello\n" * 100,
    "a script of PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n{} loop\n",
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='30'/>",
    "an icon with a PNG of 100,000 x 100,000": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 60, 22)
    + png(100_000, 100_000),
}  # fmt: skip
CUTS = [0.0, 0.05, 0.2, 0.5, 0.9, 0.99]


@pytest.mark.parametrize("content", row("picture", PICTURES))
def test_pictures(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "case.png"
    file.write_bytes(content)
    holds("doors:open_picture", file, warm=(samples.picture_file(),))


@pytest.mark.reliability(door="picture", fault="cut short, in six places of each format", expected=LAW)
@pytest.mark.parametrize("kind", samples.PICTURES)
@pytest.mark.parametrize("part", CUTS)
def test_cut_pictures(kind: str, part: float, tmp_path: Path) -> None:
    file = tmp_path / f"case.{kind.lower()}"
    file.write_bytes(cut(kind, part))
    outcome = holds("doors:open_picture", file, warm=(samples.picture_file(),))
    assert outcome.kind == "refused" or part >= 0.5  # the first frame may be whole, and a JPEG may lack its end


@pytest.mark.reliability(door="safetensors", fault="cut at every 64th byte", expected=LAW)
@pytest.mark.parametrize("quarter", range(4))
def test_cut_weights(quarter: int, tmp_path: Path) -> None:
    whole = samples.small_weights()
    work = samples.copied("clip", tmp_path)
    places = range(0, len(whole), 64)
    for place in places[quarter * len(places) // 4 : (quarter + 1) * len(places) // 4]:
        (work / "model.safetensors").write_bytes(whole[:place])
        outcome = holds("doors:encode_checkpoint", work, names="model.safetensors", warm=(GOLDEN / "clip",))
        assert outcome.kind == "refused", place


def header(**entry: Any) -> bytes:
    """A safetensors file of 16 bytes of data, whose header has one tensor."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": bytes(7),
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + bytes(64),
    "a header of 100 MB": struct.pack("<Q", 100 << 20) + bytes(64),
    "a header that is no JSON": struct.pack("<Q", 8) + b"\xff" * 8,
    "a header nested 100,000 deep": struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
    "offsets that end before they begin": header(data_offsets=[16, 0]),
    "offsets behind the end": header(data_offsets=[0, 2**40]),
    "negative offsets": header(data_offsets=[-16, 0]),
    "three offsets": header(data_offsets=[0, 8, 16]),
    "no offsets": header(data_offsets=None),
    "a shape larger than its bytes": header(shape=[4, 10**9]),
    "a shape whose product overflows": header(shape=[2**32, 2**32]),
    "a negative shape": header(shape=[-4]),
    "a shape of 10,000 axes": header(shape=[1] * 10_000),
    "an unknown dtype": header(dtype="F99"),
    "a dtype of another size": header(dtype="F64"),
    "a dtype of 4 bits": header(dtype="F4", shape=[32]),
    "metadata that are no texts": b"".join(
        [struct.pack("<Q", 31), b'{"__metadata__": {"a": [1, 2]}}'],
    ),
    "no tensor": struct.pack("<Q", 2) + b"{}",
    "a ZIP": b"PK\x03\x04" + bytes(64),
    "text of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
}


@pytest.mark.parametrize("content", row("safetensors", WEIGHTS))
def test_weights(content: bytes, tmp_path: Path) -> None:
    work = samples.copied("clip", tmp_path, **{"model.safetensors": content})
    names = ["model.safetensors", str(work)]
    assert holds("doors:encode_checkpoint", work, names=names, warm=(GOLDEN / "clip",)).kind == "refused"


def shard(change: Callable[[tarfile.TarInfo], None], content: bytes = b"a .", name: str = "0.txt") -> bytes:
    """A shard of one sample whose text is a member that is changed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        picture = tarfile.TarInfo("0.png")
        picture.size = len(samples.picture("PNG"))
        made.addfile(picture, io.BytesIO(samples.picture("PNG")))
        member = tarfile.TarInfo(name)
        member.size = len(content)
        change(member)
        made.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def linked(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, target, 0

    return change


def same(member: tarfile.TarInfo) -> None:
    """Change nothing."""


def with_size(field: bytes) -> bytes:
    """A shard whose first member states this size in its header, with the right checksum."""
    data = bytearray(samples.tar())
    data[124:136] = field
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def zipped() -> bytes:
    import gzip

    return gzip.compress(samples.tar())


TARS: dict[str, bytes] = {
    "empty": b"",
    "cut in a header": samples.tar()[:300],
    "cut in a member": samples.tar()[:700],
    "compressed": zipped(),
    "a name that leads out": shard(same, name="../../0.txt"),
    "an absolute name": shard(same, name="/etc/0.txt"),
    "a name with half of a character": shard(same, name="\udcff.txt"),
    "a link to a file outside": shard(linked(tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link to itself": shard(linked(tarfile.LNKTYPE, "0.txt")),
    "a device": shard(linked(tarfile.CHRTYPE, "")),
    "a pipe": shard(linked(tarfile.FIFOTYPE, "")),
    "a size of 8 GB": with_size(b"77777777777\0"),
    "a size of 2^80": with_size(b"\x80" + b"\xff" * 11),
    "a negative size": with_size(b"\xff" * 11 + b"\xf0"),
    "a size that is no number": with_size(b"many bytes\0\0"),
    "a text of 64 MB": shard(same, bytes(64 << 20)),
    "10,000 members of one sample": b"".join(
        tarfile.TarInfo(f"0.{number}").tobuf(tarfile.PAX_FORMAT) for number in range(10_000)
    ),
    "a JSON that is nested": shard(same, HARD_JSON["nested and never closed"], "0.json"),
    "a million zeros": bytes(1_000_000),
}  # fmt: skip


@pytest.mark.parametrize("content", row("WebDataset shard", TARS))
def test_tars(content: bytes, tmp_path: Path) -> None:
    file, valid = tmp_path / "case.tar", tmp_path / "valid.tar"
    valid.write_bytes(samples.tar())
    file.write_bytes(content)
    holds("doors:read_data", file, warm=(valid,))


def footer(length: int) -> bytes:
    """A table whose footer says another length."""
    return samples.parquet()[:-8] + struct.pack("<I", length) + b"PAR1"


def other_columns(*, empty: bool = False) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({} if empty else {"image": [1, None], "caption": [[1.5], None]}), sink)
    return bytes(sink.getvalue())


def columns_of_booleans() -> bytes:
    """Texts that the schema in the footer says are booleans. Where pyarrow returns such a column, it ends the process."""
    whole = samples.parquet()
    start = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    texts, booleans = b"\x15\x0c", b"\x15\x00"  # the first field of a column: its type
    return whole[:start] + whole[start:].replace(texts, booleans, 3)


def equal_rows() -> bytes:
    """Five hundred rows with the same million letters, in some kilobytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink, rows = pa.BufferOutputStream(), pa.array([0] * 500, pa.int32())
    texts = {"image": "a.png", "caption": "a" * 1_000_000}
    columns = {name: pa.DictionaryArray.from_arrays(rows, [text]) for name, text in texts.items()}
    pq.write_table(pa.table(columns), sink, store_schema=False)
    return bytes(sink.getvalue())


TABLES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "500 equal rows of a million letters": equal_rows,
    "its first four bytes only": lambda: b"PAR1",
    "its marks only": lambda: b"PAR1" + struct.pack("<I", 0) + b"PAR1",
    "cut short": lambda: samples.parquet()[:-100],
    "a footer of 4 GB": lambda: footer(2**32 - 1),
    "a footer of no bytes": lambda: footer(0),
    "a footer of zeros": lambda: b"PAR1" + bytes(1000) + struct.pack("<I", 1000) + b"PAR1",
    "zeros in a page": lambda: samples.parquet()[:60] + bytes(60) + samples.parquet()[120:],
    "columns of other types": other_columns,
    "texts that are said to be booleans": columns_of_booleans,
    "no columns": lambda: other_columns(empty=True),
    "text": lambda: b"image,caption\na.png,a .\n",
}


@pytest.mark.parametrize("content", row("Parquet table", TABLES))
def test_tables(content: Callable[[], bytes], tmp_path: Path) -> None:
    file, valid = tmp_path / "case.parquet", tmp_path / "valid.parquet"
    valid.write_bytes(samples.parquet())
    file.write_bytes(content())
    holds("doors:read_data", file, warm=(valid,))


DATA_ROWS: dict[str, Any] = {
    "a picture outside": {"image": "../a.png", "caption": "a ."},
    "a picture with an absolute path": {"image": "/etc/passwd", "caption": "a ."},
    "a picture that is a number": {"image": 5, "caption": "a ."},
    "a picture that is a mapping": {"image": {"bytes": 5}, "caption": "a ."},
    "a picture with a null byte": {"image": "a\0.png", "caption": "a ."},
    "a picture with a name of 10,000 letters": {"image": "a" * 10_000, "caption": "a ."},
    "100,000 pictures": {"image": ["a.png"] * 100_000, "caption": "a ."},
    "a caption that is a list": {"image": "a.png", "caption": ["a"]},
    "a caption of half of a character": {"image": "a.png", "caption": "\ud800"},
    "a caption of 10 million letters": {"image": "a.png", "caption": "a" * 10_000_000},
    "turns that are a text": {"image": "a.png", "conversations": "human"},
    "turns that are numbers": {"image": "a.png", "conversations": [1, 2]},
    "turns without a speaker": {"image": "a.png", "conversations": [{}, {}]},
    "turns whose part has no text": {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    "turns whose part is a text": {"messages": [{"role": "user", "content": ["a"]}]},
    "100,000 turns": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}] * 50_000},
    "a list": [1, 2],
    "a number": 5,
    "null": None,
    "names that are numbers": {"image": "a.png", "caption": "a .", "names": [1]},
    "a label that is a list": {"image": "a.png", "caption": "a .", "label": [1]},
}


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize("value", row("row of a data set", DATA_ROWS))
def test_rows(value: Any, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"case.{suffix}"
    file.write_text(json.dumps(value if suffix == "jsonl" else [value]))
    holds("doors:read_data", file, warm=(samples.data_file(),))


@pytest.mark.reliability(door="every path", fault="a directory, a pipe, a device, a loop of links", expected=LAW)
@pytest.mark.parametrize("function", ["read_config", "open_picture", "read_data", "encode_checkpoint"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "device", "loop", "no permission"])
def test_paths_that_are_no_files(kind: str, function: str, tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_text("{}")
        path.chmod(0)
    holds(f"doors:{function}", path)
