"""Parquet and data sets on disk, as `datasets` writes them, and shards, as `webdataset` writes them."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import bad, colours, every, opened, png, turns, write_pictures

from vita_core.errors import ConfigError
from vita_core.training.data import SampleError, picture_of
from vita_core.training.data.shards import TarSource

datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
webdataset = pytest.importorskip("webdataset", reason="the extra `dev` is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data")


# tables -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(pictures: Path) -> Any:
    """Captioned pictures, one of them stored as bytes, as `datasets` makes them."""
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {
        "image": [{"bytes": png("red"), "path": None}, {"bytes": png("green"), "path": "x/green.png"}],
        "caption": ["red", "green"],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_data_set_saved_to_disk(table: Any, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "saved")
    samples = every(opened(tmp_path / "saved"))
    assert colours(samples) == [[(255, 0, 0)], [(0, 255, 0)]]
    assert [(sample.caption, sample.where) for sample in samples] == [
        ("red", f"{tmp_path}/saved: row 0"),
        ("green", f"{tmp_path}/saved: row 1"),
    ]
    table.shuffle(seed=1).select([1]).save_to_disk(tmp_path / "chosen")
    assert len(every(opened(tmp_path / "chosen"))) == 1


def test_conversations_with_lists_of_pictures_in_a_table(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        }
    )
    said = [{"role": "user", "content": "<image><image> same ?"}, {"role": "assistant", "content": "no"}]
    rows = {"images": [[{"bytes": png(name), "path": None} for name in ("red", "blue")], []], "messages": [said, said]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "d.parquet")
    for source in (opened(tmp_path / "saved"), opened(tmp_path / "d.parquet")):
        assert colours([source.sample(0)]) == [[(255, 0, 0), (0, 0, 255)]]
        assert bad(source, 1).reason == "more <image> than pictures"


def test_splits(table: Any, tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(tmp_path / "both")
    assert len(opened(tmp_path / "both")) == 2
    assert every(opened(tmp_path / "both", split="test"))[0].where == f"{tmp_path}/both/test: row 0"
    with pytest.raises(ConfigError, match=r"there is no split 'tset'\. Did you mean 'test'\? Try: .*train, test"):
        opened(tmp_path / "both", split="tset")


def test_parquet_with_picture_bytes(table: Any, pictures: Path) -> None:
    (pictures / "parts").mkdir()
    table.to_parquet(pictures / "parts" / "0.parquet", batch_size=1)
    table.to_parquet(pictures / "parts" / "1.parquet")
    source = opened(pictures / "parts")
    assert source.blocks == (1, 1, 2)  # one a group of rows
    assert colours(every(source)) == [[(255, 0, 0)], [(0, 255, 0)]] * 2
    assert source.sample(3).where == f"{pictures}/parts/1.parquet: row 1"
    assert colours([pickle.loads(pickle.dumps(source)).sample(1)]) == [[(0, 255, 0)]]
    single = opened(pictures / "parts" / "1.parquet")
    assert single.blocks == (2,)
    paths = datasets.Dataset.from_dict({"image": ["red.png", "../red.png"], "caption": ["red", "red"]})
    paths.to_parquet(pictures / "paths.parquet")
    assert colours([opened(pictures / "paths.parquet").sample(0)]) == [[(255, 0, 0)]]
    assert bad(opened(pictures / "paths.parquet"), 1).reason.startswith("a picture outside")


def test_a_group_of_rows_is_read_once(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    table.to_parquet(tmp_path / "d.parquet")
    source, read, calls = opened(tmp_path / "d.parquet"), pq.ParquetFile.read_row_group, []

    def counted(self: Any, group: int) -> Any:
        calls.append(group)
        return read(self, group)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    every(source)
    assert calls == [0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d.parquet", "not a Parquet file: .* Try: download it again"),
        ("saved", "not a data set that `datasets` can open"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, message: str) -> None:
    file = tmp_path / name if "." in name else tmp_path / name / "state.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text("damaged")
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path / name)


@pytest.mark.reliability(
    door="Parquet table",
    fault="a group of rows that is 100,000 times larger in memory",
    expected="an error that names the file, before it is read",
)
def test_a_group_of_rows_that_explodes(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"image": [bytes(16 << 20)] * 17, "caption": ["red"] * 17})
    parquet.write_table(table, tmp_path / "d.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "d.parquet").stat().st_size < 1 << 20
    with pytest.raises(
        ConfigError, match=r"d.parquet: a group of its rows would take 285 MB in memory, over 100 times"
    ):
        opened(tmp_path / "d.parquet")


@pytest.mark.parametrize(("package", "name"), [("datasets", "saved"), ("pyarrow", "d.parquet")])
def test_a_missing_package_is_told(
    table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet" if package == "pyarrow" else package, None)
    with pytest.raises(
        ConfigError, match=rf"{name}: reading it needs {package}, .* Try: `pip install 'vita-core\[data\]'`"
    ):
        opened(tmp_path / name)


# shards -------------------------------------------------------------------------------------------------------------


def shard(file: Path, names: Sequence[str]) -> Path:
    with webdataset.TarWriter(str(file)) as out:
        for key, name in enumerate(names):
            out.write({"__key__": f"{file.stem}-{key:03d}", "png": png(name), "txt": f"it is {name}"})
    return file


def test_shards_that_webdataset_wrote(tmp_path: Path) -> None:
    shard(tmp_path / "s-000.tar", ["red", "green"])
    shard(tmp_path / "s-001.tar", ["blue"])
    source = opened(tmp_path / "s-{000..001}.tar")
    assert source.blocks == (2, 1)
    samples = every(source)
    assert colours(samples) == [[(255, 0, 0)], [(0, 255, 0)], [(0, 0, 255)]]
    assert [sample.caption for sample in samples] == ["it is red", "it is green", "it is blue"]
    assert samples[2].where == f"{tmp_path}/s-001.tar!s-001-000"
    assert len(opened(tmp_path)) == 3
    assert len(opened(tmp_path / "s-001.tar")) == 1
    theirs = (
        webdataset.WebDataset(str(tmp_path / "s-000.tar"), shardshuffle=False).decode("rgb8").to_tuple("png", "txt")
    )
    own = [(np.asarray(picture_of(sample.pictures[0])), sample.caption) for sample in samples[:2]]
    for (array, text), (expected, caption) in zip(own, theirs, strict=True):
        assert text == caption
        assert (array == expected).all()
    with pytest.raises(ConfigError, match=r"1 of 3 files are missing, such as .*s-002\.tar"):
        opened(tmp_path / "s-{000..002}.tar")


def test_the_headers_of_a_shard_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read again if the file has changed, or if nothing can be kept."""
    file, calls, original = shard(tmp_path / "d.tar", ["red", "green"]), [], tarfile.open

    def counted(name: Any = None, *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(tarfile, "open", counted)
    first = [sample.caption for sample in every(opened(file))]
    assert calls.count(file) == 1
    assert [sample.caption for sample in every(opened(file))] == first
    assert calls.count(file) == 1
    monkeypatch.setattr(tarfile, "open", original)
    shard(file, ["blue"] * 3)
    monkeypatch.setattr(tarfile, "open", counted)
    assert len(opened(file)) == 3
    assert calls.count(file) == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "file"))
    assert len(opened(file)) == 3
    assert calls.count(file) == 3


def test_several_pictures_and_turns_in_a_shard(tmp_path: Path) -> None:
    said = {"image": ["../../etc/passwd"], "conversations": turns("<image> or <image> ?", "both", "sure ?", "yes")}
    with webdataset.TarWriter(str(tmp_path / "d.tar")) as out:
        out.write({"__key__": "a/b", "0.png": png("red"), "1.png": png("blue"), "json": said, "cls": 3})
        out.write({"__key__": "a/c", "json": {"conversations": turns("text", "only")}})
        out.write({"__key__": "a/d", "json": b"[1]"})
        out.write({"__key__": "a/e", "png": b"damaged", "txt": "x"})
    source = opened(tmp_path / "d.tar")
    first = source.sample(0)
    assert colours([first]) == [[(255, 0, 0), (0, 0, 255)]]  # the members beside the JSON, not what it names
    assert len(first.turns) == 2
    assert source.sample(1).pictures == ()
    assert str(bad(source, 2)).startswith(f"{tmp_path}/d.tar!a/d: not an object")
    with pytest.raises(SampleError, match=r"a picture cannot be opened: .*d\.tar!a/e\.png: not a picture"):
        picture_of(source.sample(3).pictures[0])


def test_no_member_becomes_a_path(tmp_path: Path) -> None:
    """Names that lead out of the shard, links and devices: nothing is written, and only data is read."""
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for name, data in (("../../escape.png", png("red")), ("../../escape.txt", b"red")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "../../escape.png")):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, target
            tar.addfile(info)
        info = tarfile.TarInfo("device.png")
        info.type = tarfile.CHRTYPE
        tar.addfile(info)
    before = {*tmp_path.parent.rglob("*")}
    source = opened(tmp_path / "d.tar")
    assert len(source) == 1
    assert colours([source.sample(0)]) == [[(255, 0, 0)]]
    written = {*tmp_path.parent.rglob("*")} - before
    assert not [path for path in written if path != tmp_path / "cache" and tmp_path / "cache" not in path.parents]


@pytest.mark.parametrize("damage", ["cut", "gzip", "text"])
def test_damaged_shards(tmp_path: Path, damage: str) -> None:
    file = shard(tmp_path / "d.tar", ["red"] * 3)
    if damage == "gzip":
        with tarfile.open(tmp_path / "e.tar", "w:gz") as tar:
            tar.add(file)
        file = tmp_path / "e.tar"
    else:
        file.write_bytes(file.read_bytes()[:1600] if damage == "cut" else b"text" * 500)
    with pytest.raises(ConfigError, match=r"not a whole, uncompressed tar file: .* Try: download it again"):
        opened(file)


def test_a_shard_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*no\.tar: No such file or directory\. Try: check the path"):
        TarSource([tmp_path / "no.tar"])
