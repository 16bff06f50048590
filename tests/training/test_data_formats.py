"""Folders, JSONL and JSON: every kind of row, and the place of each bad one. Finding the format, and the config."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from data_sets import bad, colours, every, opened, turns, write, write_pictures

from vita_core import load_config
from vita_core.config.data import DataSetConfig
from vita_core.errors import ConfigError
from vita_core.training.data import SampleError, Turn, picture_of, read_samples
from vita_core.training.data import jsonl as jsonl_module
from vita_core.training.sets import open_sets


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data")


# folders and JSON ---------------------------------------------------------------------------------------------------


def test_a_folder_of_captions(pictures: Path) -> None:
    (pictures / "red.txt").write_text("it is red\n")
    (pictures / "green.txt").write_text(" \n")
    (pictures / "notes.txt").write_text("no picture has this name")
    source = opened(pictures)
    assert len(source) == 3
    assert source.sample(2).turns == (Turn(None, "it is red"),)
    assert source.sample(2).where == f"{pictures}/red.txt:1:1"
    assert str(bad(source, 0)).startswith(f"{pictures}/blue.png: no answer: there is no blue.txt. Try: ")
    assert str(bad(source, 1)).startswith(f"{pictures}/green.txt:1:1: empty text: the caption is empty. Try: ")
    (pictures / "green.txt").write_bytes(b"\xff")
    assert bad(source, 1).reason == "a text that cannot be read"


def test_jsonl_of_captions_and_of_conversations(pictures: Path) -> None:
    file = write(
        pictures / "d.jsonl",
        {"image": "red.png", "caption": " red ", "names": ["scarlet"]},
        {"image": ["red.png", "green.png"], "conversations": turns("<image> or <image> ?", "both", "sure ?", "yes")},
        {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]},
    )
    first, second, third = every(opened(file))
    assert (first.turns, first.names, first.where) == ((Turn(None, "red"),), ("scarlet",), f"{file}:1:1")
    assert second.turns == (Turn("<image> or <image> ?", "both"), Turn("sure ?", "yes"))
    assert colours([first, second, third]) == [[(255, 0, 0)], [(255, 0, 0), (0, 255, 0)], []]


def test_llava_json(pictures: Path) -> None:
    file = write(
        pictures / "llava.json",
        {"id": "1", "image": "red.png", "conversations": turns("what ?\n<image>", "red", "sure ?", "yes")},
        {"id": "2", "conversations": turns("text only", "fine")},
        {"id": "3", "video": "clip.mp4", "conversations": turns("<video>\nwhat ?", "a cat")},
        {"id": "4", "image": "red.png", "conversations": [turns("", "skipped")[1], *turns("<image>", "red")]},
    )
    first, second, third, fourth = every(opened(file))
    assert first.turns[0].question == "what ?\n<image>"
    assert (second.pictures, second.turns) == ((), (Turn("text only", "fine"),))
    assert [video.whole for video in third.videos] == [pictures / "clip.mp4"]
    assert fourth.turns == (Turn("<image>", "red"),)  # as in LLaVA, an answer that comes first is left out


def test_sharegpt_messages(pictures: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what ?"}]
    file = write(
        pictures / "sharegpt.json",
        {
            "images": ["red.png"],
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": parts},
                {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            ],
        },
        {"images": [], "conversations": turns("hello", "hi")},
    )
    first, second = every(opened(file, format="sharegpt"))
    assert (first.system, first.turns) == ("Be short.", (Turn("<image>what ?", "red"),))
    assert second.turns == (Turn("hello", "hi"),)


ROW = {"image": "red.png", "caption": "red"}


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ([1], "a list where one sample is expected", "1 entries"),
        (1, "not an object", "1"),
        ({"caption": "red"}, "no picture", "'image' is missing"),
        ({"image": 5, "caption": "red"}, "no picture", "5"),
        ({"image": "red.png"}, "no answer", "neither a caption nor turns, but ['image']"),
        ({"image": "red.png", "caption": 5}, "no answer", "'caption' is missing or not a text: 5"),
        ({"image": "red.png", "caption": " "}, "empty text", "'caption' is empty"),
        ({**ROW, "caption": "\ud800 alone"}, "a text that is not valid Unicode", "'\\ud800 alone'"),
        ({**ROW, "names": "cat"}, "'names' is not a list of texts", "'cat'"),
        ({**ROW, "names": [5]}, "'names' is not a list of texts", "[5]"),
        ({"conversations": 5}, "the turns are not a list", "5"),
        ({"conversations": ["x"]}, "a turn is not an object", "'x'"),
        ({"conversations": []}, "no answer", "there is no turn"),
        ({"conversations": turns("what ?")}, "no answer", "the last turn is a question"),
        ({"conversations": turns("what ?", "red", "sure ?")}, "no answer", "the last turn is a question"),
        ({"conversations": turns("what ?", " ")}, "empty text", "an answer is empty"),
        ({"conversations": turns(" ", "red")}, "empty text", "a question is empty"),
        ({"conversations": [{"from": "human"}, {"from": "gpt", "value": "a"}]}, "no question", "a question is missing"),
        (
            {"conversations": [*turns("a", "b"), *turns("c", "d")[::-1]]},
            "questions and answers do not alternate",
            "user",
        ),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "a turn of an unknown speaker", "'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "a part of a turn that is no text", ""),
        ({**ROW, "caption": "an <image>"}, "<image> in an answer", ""),
        ({"image": "red.png", "conversations": turns("<image> <image>", "a")}, "more <image> than pictures", "2 of 1"),
        ({"conversations": turns("<video>", "a")}, "more <video> than videos", "1 of 0"),
        ({**ROW, "image": "../../etc/passwd"}, "a picture outside of the folder of the data set", "../../etc/passwd"),
        ({**ROW, "image": "/etc/passwd"}, "a picture outside of the folder of the data set", "/etc/passwd"),
        ({**ROW, "image": "a/../../x.png"}, "a picture outside of the folder of the data set", "a/../../x.png"),
    ],
)
def test_bad_rows(pictures: Path, row: Any, reason: str, detail: str) -> None:
    told = bad(opened(write(pictures / "d.jsonl", ROW, row)), 1)
    assert told.reason.startswith(reason)
    assert told.detail.startswith(detail)
    assert told.where == f"{pictures}/d.jsonl:2:1"
    copied = pickle.loads(pickle.dumps(told))
    assert (copied.reason, copied.detail, copied.where, str(copied)) == (
        told.reason,
        told.detail,
        told.where,
        str(told),
    )


def test_pictures_may_lie_in_another_folder(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    file = write(tmp_path / "text" / "d.jsonl", ROW)
    assert picture_of(opened(file, pictures=str(pictures)).sample(0).pictures[0]).size == (8, 6)
    assert bad(opened(write(file, {**ROW, "image": "../data/red.png"}))).reason.startswith("a picture outside")
    assert opened(file, pictures=str(tmp_path / "text")).blocks == (1,)
    assert opened(write(file, {**ROW, "image": str(pictures / "red.png")}), pictures="/").sample(0).pictures[0].exists()


def test_lines_and_columns(pictures: Path) -> None:
    file = pictures / "d.jsonl"
    file.write_text('\n{"image": "red.png", "caption": "r\u00e9d"}\n\n {"image": oops}\n\xff\n'.replace("\xff", "\x00"))
    source = opened(file)
    assert len(source) == 3
    assert source.sample(0).where == f"{file}:2:1"
    assert str(bad(source, 1)).startswith(f"{file}:4:12: not valid JSON: Expecting value. Try: ")
    assert bad(source, 2).where == f"{file}:5:1"
    file.write_bytes(b"\xff\xfe\n")
    assert bad(opened(file)).reason == "not valid JSON"


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_entries_of_a_list_have_their_place(pictures: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Read in blocks of any size, also within a character of several bytes."""
    monkeypatch.setattr(jsonl_module, "BLOCK", block)
    file = pictures / "d.json"
    rows = [{"image": "red.png", "caption": f"r\u00e9d \u4e2d {number} ]" + "},"} for number in range(9)]
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    samples = every(opened(file))
    assert [sample.caption for sample in samples] == [row["caption"] for row in rows]
    assert [sample.where for sample in samples] == [f"{file}:{2 + 4 * number}:3" for number in range(9)]
    file.write_text(json.dumps(rows[:2]))
    assert every(opened(file))[1].where == f"{file}:1:{len(json.dumps(rows[:1])) + 2}"


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_byte_order_mark_and_lines_that_end_as_on_windows(pictures: Path, suffix: str) -> None:
    file = write(pictures / f"d.{suffix}", {**ROW, "caption": "r\u00e9d"}, ROW)
    text = file.read_text().replace("\n", "\r\n").replace("}, {", "},\r\n{")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\\u00e9", "\u00e9").encode())
    assert [sample.caption for sample in every(opened(file))] == ["r\u00e9d", "red"]
    assert opened(file).sample(1).where == f"{file}:2:1"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"a": 1},\n {"a" 2}]', r":2:7: not valid JSON: Expecting ':' delimiter\."),
        ('[{"a": 1}\n {"a": 2}]', r":2:2: not valid JSON: Expecting ',' delimiter\."),
        ('[{"a": 1}', r":1:10: not valid JSON"),
        ("[" * 100_000, r":1:\d+: not valid JSON: nested too deep\."),
        ("5", r":1:1: not a list: int\. Try: a list of \{image, conversations\}"),
        ('{"a": 1}', r":1:1: not a list: dict\."),
        ("", r":1:1: not valid JSON: Expecting value\."),
    ],
)
def test_a_list_that_is_not_valid(pictures: Path, text: str, place: str) -> None:
    (pictures / "d.json").write_text(text)
    with pytest.raises(ConfigError, match=place):
        opened(pictures / "d.json")


def test_a_file_that_is_not_text(pictures: Path) -> None:
    (pictures / "d.json").write_bytes(b"[\xff]")
    with pytest.raises(ConfigError, match=r"cannot read .*can't decode"):
        opened(pictures / "d.json")


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_many_rows_take_little_memory(tmp_path: Path, suffix: str) -> None:
    """100,000 rows of 400 bytes: 40 MB on disk, of which only the places are kept, and one block while they are found."""
    file, count = tmp_path / f"d.{suffix}", 100_000
    row = json.dumps({"image": "a.png", "caption": "x" * 365})
    with file.open("w") as out:
        out.write("[" * (suffix == "json"))
        for number in range(count):
            out.write(row + (("," if number < count - 1 else "]") if suffix == "json" else "") + "\n")
    tracemalloc.start()
    source = opened(file)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == count
    assert kept < 40 * count
    assert peak < 40 * count + 8_000_000
    assert source.sample(count - 1).where.startswith(f"{file}:{count}:")


# finding the format -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("datra", r"no such file or directory: .*datra\. Did you mean 'data'\?"),
        ("data/notes.csv", r"a file of a format that is not known: .*notes\.csv\. Try: a folder"),
        ("empty", r"there is no sample in .*empty"),
        ("liuhaotian/LLaVA-Instruct", r"a data set on a hub, .*: 'liuhaotian/LLaVA-Instruct'\. Try: `hf download liu"),
        (
            "hf://datasets/a/b@v1",
            r"`hf download a/b --repo-type dataset --revision v1 --local-dir DIR`, and the path DIR",
        ),
    ],
)
def test_what_is_no_data_set(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (pictures / "notes.csv").touch()
    with pytest.raises(ConfigError, match=message) as told:
        opened(path)
    assert "\n" not in str(told.value)


def test_a_folder_without_shards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \.tar file in "):
        opened(tmp_path, format="webdataset")


def test_read_samples_takes_absolute_paths(pictures: Path, tmp_path: Path) -> None:
    """Those of the file that vita train writes for vita eval."""
    file = write(tmp_path / "held_out.jsonl", {**ROW, "image": str(pictures / "red.png")})
    assert read_samples(file)[0].image == pictures / "red.png"
    none = (
        r"--data: none of the 3 pictures in .*data has a caption in a \.txt file of its name, such as blue\.txt\. Try: "
    )
    with pytest.raises(ConfigError, match=f"{none}a \\.txt file with its caption next to each picture"):
        read_samples(pictures)
    write(pictures / "my rows.jsonl", {"image": "red.png", "caption": "red"})
    with pytest.raises(ConfigError, match=f"{none}--data '.*data/my rows\\.jsonl'"):
        read_samples(pictures)
    with pytest.raises(ConfigError, match=r"data\.mine\.path: none of the 3 .*Try: the file .*/my rows\.jsonl"):
        open_sets({"mine": DataSetConfig(path=str(pictures))}, 0)
    two = write(tmp_path / "two.json", {"image": ["a", "b"], "conversations": turns("x", "y")})
    with pytest.raises(SampleError, match=r"two\.json:1:2: not one picture in a file of its own: 2 pictures"):
        read_samples(two)


def test_a_folder_of_rows_alone_names_their_file(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.json", {"image": "red.png", "caption": "red"})
    with pytest.raises(ConfigError, match=rf"there is no sample in {tmp_path}\. Try: --data {rows}"):
        read_samples(tmp_path)


def test_pictures_without_a_caption_are_counted(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "red.txt").write_text("it is red")
    assert [sample.caption for sample in read_samples(pictures)] == ["it is red"]
    assert f"{pictures}: 2 of 3 pictures have no caption, and are left out" in capsys.readouterr().err


# the section of the config ------------------------------------------------------------------------------------------


def test_the_section(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "base.yaml").write_text(
        "tower: {weights: ./a}\ndata: {captions: {path: ./captions.jsonl, held_out: 0.02}}\n"
    )
    file = tmp_path / "c.yaml"
    file.write_text(
        "extends: base.yaml\ndata:\n"
        "  chat: {path: sets/llava.json, pictures: photos, weight: 2.0, format: llava}\n"
        "  shards: {path: 'sets/{000..099}.tar'}\n  hub: {path: owner/name}\n"
    )
    found = load_config(file, ["data.chat.weight=3.0"]).data
    assert [*found] == ["captions", "chat", "shards", "hub"]
    assert found["captions"].path == f"{tmp_path}/captions.jsonl"
    assert (found["chat"].path, found["chat"].pictures) == (f"{tmp_path}/sets/llava.json", f"{tmp_path}/photos")
    assert (found["shards"].path, found["hub"].path) == (f"{tmp_path}/sets/{{000..099}}.tar", "owner/name")
    assert (found["chat"].weight, found["captions"].held_out) == (3.0, 0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: {a: {path: ./x, wieght: 2.0}}",
            r"2:23: unknown key: 'wieght' in section 'data\.a'\. Did you mean 'weight'\?",
        ),
        (
            "data: {a: {path: ./x, weight: 0.0}}",
            r":2:23: data\.a\.weight: wrong value: 0\.0\. Try: a value greater than 0",
        ),
        ("data: {a: {weight: 1.0}}", r"required key is missing: 'data\.a\.path'"),
        ("data: {a: {path: ./x, format: lava}}", r"data\.a\.format: wrong value: 'lava'\. Did you mean 'llava'\?"),
        ("data: {a: {path: ./x, held_out: 1.0}}", r"data\.a\.held_out: wrong value: 1\.0\. Try: a value less than 1"),
    ],
)
def test_wrong_sections(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(f"tower: {{weights: ./a}}\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.yaml")
