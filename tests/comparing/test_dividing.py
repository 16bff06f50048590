"""The data of a comparison: read in any format, divided once, and refused where it is too little."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance
from small import write_data

from vita_core.comparing.dividing import SPLITS, Divided, divided, read_data
from vita_core.errors import ConfigError
from vita_core.probing.splits import divide
from vita_core.training.data import read_samples


def split_up(data: Path, folder: Path) -> Divided:
    return divided(read_data(data), folder)


def test_near_duplicates_are_in_one_split(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 24)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for number in range(8):  # a third of the pictures comes twice
        with Image.open(data.parent / f"{number}.png") as picture:
            ImageEnhance.Brightness(picture).enhance(1.1).save(data.parent / f"{number}.jpg", quality=90)
        rows.append({"image": f"{number}.jpg", "caption": rows[number]["caption"], "names": ["pet"]})
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = split_up(data, tmp_path / "out")
    assert (found.samples, found.groups) == (32, 24)
    splits = {name: read_samples(tmp_path / "out" / f"{name}.jsonl") for name in SPLITS}
    assert [len(splits[name]) for name in SPLITS] == [found.train, found.validation, found.test]
    place = {sample.image.name: name for name, samples in splits.items() for sample in samples}
    assert all(place[f"{number}.png"] == place[f"{number}.jpg"] for number in range(8))
    assert len(found.test_groups) == found.test
    assert {sample.names for samples in splits.values() for sample in samples if sample.image.suffix == ".jpg"} == {
        ("pet",)
    }


def test_the_same_data_is_divided_in_the_same_way_everywhere(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    first = split_up(data, tmp_path / "a")
    moved = data.rename(data.with_name("moved.jsonl"))
    again = split_up(moved, tmp_path / "b")
    assert (first.sha256, first.test_groups) == (again.sha256, again.test_groups)
    assert (tmp_path / "a" / "test.jsonl").read_text() == (tmp_path / "b" / "test.jsonl").read_text()
    before = (tmp_path / "a" / "train.jsonl").stat().st_mtime_ns
    assert split_up(moved, tmp_path / "a").sha256 == first.sha256
    assert (tmp_path / "a" / "train.jsonl").stat().st_mtime_ns == before
    moved.write_text(moved.read_text().replace("a cat .", "a tiger ."))
    assert split_up(moved, tmp_path / "a").sha256 != first.sha256
    assert "tiger" in (tmp_path / "a" / "train.jsonl").read_text()


def test_pictures_in_an_archive_get_files_of_their_own(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 20)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number, line in enumerate(data.read_text().splitlines()):
            (tmp_path / "text").write_text(json.loads(line)["caption"])
            archive.add(data.parent / f"{number}.png", f"{number:03d}.png")
            archive.add(tmp_path / "text", f"{number:03d}.txt")
    split_up(tmp_path / "shard.tar", tmp_path / "out")
    (first, *_) = read_samples(tmp_path / "out" / "test.jsonl")
    assert first.image.parent == tmp_path / "out" / "pictures"
    assert first.image.read_bytes() in {file.read_bytes() for file in data.parent.glob("*.png")}


def test_questions_are_kept(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 20)
    turns = [{"from": "human", "value": "<image>\nwhat is it ?"}, {"from": "gpt", "value": "a dog ."}]
    rows = [{"image": f"{number}.png", "conversations": turns} for number in range(20)]
    (data.parent / "llava.json").write_text(json.dumps(rows))
    split_up(data.parent / "llava.json", tmp_path / "out")
    (first, *_) = read_samples(tmp_path / "out" / "test.jsonl")
    assert [(turn.question, turn.answer) for turn in first.turns] == [("<image>\nwhat is it ?", "a dog .")]


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 6)
    with pytest.raises(ConfigError, match="6 pictures in 6 groups of near-duplicates are too few for three splits"):
        split_up(data, tmp_path / "out")
    data.write_text(data.read_text() + json.dumps({"images": ["0.png", "1.png"], "caption": "two"}) + "\n")
    with pytest.raises(
        ConfigError, match=r"pictures\.jsonl:7:1: a comparison takes samples of one picture each, not 2"
    ):
        split_up(data, tmp_path / "out")
    data.write_text(json.dumps({"image": "gone.png", "caption": "gone"}) + "\n")
    with pytest.raises(ConfigError, match=r"pictures\.jsonl:1:1: a picture is missing: .*gone\.png"):
        split_up(data, tmp_path / "out")


def test_pictures_that_were_moved_are_found_in_the_same_splits(tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "out"
    first = split_up(data, out)
    names = {name: [one.image.name for one in read_samples(out / f"{name}.jsonl")] for name in SPLITS}
    copied = shutil.copytree(data.parent, tmp_path / "copied")
    (data.parent / "0.png").write_bytes(b"another picture now")
    for place in (tmp_path / "copied", tmp_path / "moved"):
        copied = copied.rename(place)
        assert split_up(place / data.name, out) == first
        found = {name: read_samples(out / f"{name}.jsonl") for name in SPLITS}
        assert {name: [one.image.name for one in samples] for name, samples in found.items()} == names
        assert {one.image.parent for samples in found.values() for one in samples} == {place}
        before = (out / "train.jsonl").stat().st_mtime_ns
        assert split_up(place / data.name, out) == first
        assert (out / "train.jsonl").stat().st_mtime_ns == before, "they are not written again"


def test_few_captions_are_told(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data").parent
    (folder / "1.txt").write_text("a cat .")
    with pytest.raises(ConfigError, match=r"1 pictures .* too few .*, and 29 more have no caption\. Try: at least 20"):
        split_up(folder, tmp_path / "out")
    (folder / "1.txt").unlink()
    with pytest.raises(ConfigError, match=r"none of the 30 pictures .*Try: --data .*/pictures\.jsonl"):
        split_up(folder, tmp_path / "out")


@pytest.mark.parametrize("kinds", [1, 2, 5, 10, 20])
def test_twenty_different_pictures_can_be_divided(kinds: int) -> None:
    for seed in range(20):
        splits = divide(range(20), seed=seed, labels=[str(place % kinds) if kinds < 20 else "" for place in range(20)])
        assert min(len(splits.train), len(splits.validation), len(splits.test)) >= 2
