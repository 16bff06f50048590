"""Labels of a data set, and the pictures that cannot be used."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from labelled import picture

from vita_core.errors import ConfigError
from vita_core.probing.pictures import read_labelled, ref_of


def jsonl(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(len(rows)):
        picture("apple", number).save(folder / f"{number}.png")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"image": f"{number}.png", **row}) + "\n" for number, row in enumerate(rows)))
    return file


def test_a_folder_for_each_label_needs_no_captions(photos: Path) -> None:
    found = read_labelled(photos)
    assert (found.origin, len(found.items), found.rejected) == ("folder", 48, {})
    assert [item.label for item in found.items] == ["apple"] * 16 + ["leaf"] * 16 + ["sea"] * 16
    assert ref_of(found.source, 17).path == photos / "leaf" / "01.png"


def test_captions_of_one_folder(tmp_path: Path) -> None:
    for number, caption in enumerate(["A grand Piano.", "a dog", "my piano"]):
        picture("sea", number).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    found = read_labelled(tmp_path)
    assert (found.origin, [item.label for item in found.items]) == ("caption", ["piano", "dog", "piano"])
    assert [item.label for item in read_labelled(tmp_path, origin="folder").items] == [tmp_path.name] * 3


def test_rows_with_labels_need_no_caption(tmp_path: Path) -> None:
    rows = [{"label": "cat"}, {"label": 3, "caption": "a dog"}, {"caption": "a cup"}, {"label": [1]}, {"label": True}]
    found = read_labelled(jsonl(tmp_path, rows))
    assert (found.origin, [item.label for item in found.items]) == ("label", ["cat", "3"])
    assert found.rejected == {"no label": 3}
    assert found.rows[0] == {"where": f"{tmp_path}/rows.jsonl:3:1", "reason": "no label", "detail": "no label"}


def test_names_are_before_the_last_word(tmp_path: Path) -> None:
    rows = [{"caption": "it shows a Cougar face.", "names": ["cougar face"]}, {"caption": "a kitten"}]
    assert [item.label for item in read_labelled(jsonl(tmp_path, rows)).items] == ["cougar face", "kitten"]


def test_labels_of_parquet_and_of_shards(tmp_path: Path) -> None:
    stored = []
    for number in range(2):
        buffer = io.BytesIO()
        picture("leaf", number).save(buffer, "PNG")
        stored.append(buffer.getvalue())
    rows = [{"image": {"bytes": content, "path": None}, "label": number} for number, content in enumerate(stored)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [item.label for item in read_labelled(tmp_path / "a.parquet").items] == ["0", "1"]
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for number, content in enumerate(stored):
            member = tarfile.TarInfo(f"class {number}/x.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = read_labelled(tmp_path / "b.tar")
    assert (found.origin, [item.label for item in found.items]) == ("folder", ["class 0", "class 1"])


def test_what_cannot_be_used_is_counted_and_told(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [{"label": "cat"}] * 5)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    (tmp_path / "2.png").unlink()
    with file.open("a") as rows:
        rows.write('{"image": ["0.png", "3.png"], "label": "cat"}\n{"label": "cat", "image": \n')
    found = read_labelled(file)
    assert [item.index for item in found.items] == [0, 3, 4]
    assert found.rejected == {
        "a picture cannot be opened": 1, "a picture is missing": 1, "not one picture": 1, "not valid JSON": 1,
    }  # fmt: skip
    assert [row["where"].rpartition("rows.jsonl:")[2] for row in found.rows] == ["2:1", "3:1", "6:1", "7:26"]


def test_a_limit_draws_from_the_whole(photos: Path) -> None:
    drawn = [item.index for item in read_labelled(photos, limit=12, seed=1).items]
    assert len(drawn) == 12
    assert drawn == sorted(drawn)
    assert {index // 16 for index in drawn} == {0, 1, 2}
    assert drawn == [item.index for item in read_labelled(photos, limit=12, seed=1).items]
    assert drawn != [item.index for item in read_labelled(photos, limit=12, seed=2).items]


def test_no_label_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no picture with a label \(caption\).*2 of 2 samples: no label, such as"):
        read_labelled(jsonl(tmp_path, [{"label": "a"}] * 2), origin="caption")
    with pytest.raises(ConfigError, match="no such file or directory"):
        read_labelled(tmp_path / "gone")
