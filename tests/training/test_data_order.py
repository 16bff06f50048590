"""The order of samples is a function of seed and position; bad samples are counted, and others take their place."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from data_sets import opened, turns, write, write_pictures

from vita_core.errors import ConfigError
from vita_core.training.data import Sample, SampleError, picture_of
from vita_core.training.data.mixing import DataSet, Drawn, Mixture, check_pictures, parted
from vita_core.training.data.rejecting import RejectedLog
from vita_core.weights.files import write_whole


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))


def captions(folder: Path, name: str, count: int, **more: Any) -> DataSet:
    rows = [{"image": f"{name}{number}.png", "caption": f"{name}{number}"} for number in range(count)]
    return DataSet(name, opened(write(folder / f"{name}.jsonl", *rows)), **more)


def drawn(mixture: Mixture, draws: int, log: Path, **strict: bool) -> Drawn[str]:
    return Drawn(mixture, draws, lambda sample: sample.caption, RejectedLog(log, **strict))


def test_an_epoch_has_each_sample_once(tmp_path: Path) -> None:
    mixture = Mixture([captions(tmp_path, "a", 30), captions(tmp_path, "b", 10)], seed=3)
    assert mixture.epoch == 40
    got = [*drawn(mixture, 80, tmp_path / "r.jsonl")]
    first, second = got[:40], got[40:]
    assert Counter(first) == Counter(second) == Counter([f"a{n}" for n in range(30)] + [f"b{n}" for n in range(10)])
    assert first != second
    assert first != sorted(first)
    assert len({text[0] for text in first[:12]}) == 2  # the sets are mixed


def test_weights(tmp_path: Path) -> None:
    sets = [
        captions(tmp_path, "a", 20),
        captions(tmp_path, "b", 10, weight=3.0),
        captions(tmp_path, "c", 8, weight=0.25),
    ]
    mixture = Mixture(sets, seed=0)
    assert mixture.epoch == 20 + 30 + 2
    counts = Counter(drawn(mixture, 4 * mixture.epoch, tmp_path / "r.jsonl"))
    assert {counts[f"a{n}"] for n in range(20)} == {4}
    assert {counts[f"b{n}"] for n in range(10)} == {12}
    assert {counts[f"c{n}"] for n in range(8)} == {1}  # in four epochs


def test_the_same_seed_gives_the_same_order_from_any_position(tmp_path: Path) -> None:
    def fresh(seed: int = 5) -> Drawn[str]:
        sets = [captions(tmp_path, "a", 17, weight=1.5), captions(tmp_path, "b", 9)]
        return drawn(Mixture(sets, seed), 90, tmp_path / "r.jsonl")

    whole = [*fresh()]
    for position in (0, 1, 33, 34, 35, 70, 89):
        resumed = fresh()
        assert [resumed[place] for place in range(position, 90)] == whole[position:]
    jumping = fresh()
    assert [jumping[place] for place in (80, 3, 41, 80)] == [whole[place] for place in (80, 3, 41, 80)]
    assert [*fresh(6)] != whole
    with pytest.raises(IndexError):
        jumping[90]


def test_the_order_stays_the_same_in_later_versions(tmp_path: Path) -> None:
    """A run that began with an older version goes on with a newer one: these values must not change."""
    mixture = Mixture([captions(tmp_path, "a", 5), captions(tmp_path, "b", 3)], seed=1)
    assert [*drawn(mixture, 8, tmp_path / "r.jsonl")] == ["b1", "b0", "a3", "a0", "a4", "a2", "a1", "b2"]


def shards(folder: Path) -> Any:
    webdataset = pytest.importorskip("webdataset", reason="the extra `dev` is not installed")
    folder.mkdir()
    for number in range(4):
        with webdataset.TarWriter(str(folder / f"{number}.tar")) as out:
            for key in range(5):
                out.write({"__key__": f"{number}-{key}", "png": b"x", "txt": f"{number}-{key}"})
    return opened(folder)


def test_shards_are_read_one_after_the_other_and_skipped_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shards(tmp_path / "shards")
    whole = [*drawn(Mixture([DataSet("s", source)], seed=2), 20, tmp_path / "r.jsonl")]
    runs = [text[0] for text in whole]
    assert [runs[place : place + 5] for place in range(0, 20, 5)] == [[runs[place]] * 5 for place in range(0, 20, 5)]
    assert whole[:5] != sorted(whole[:5])
    opened_files: list[str] = []
    original = Path.open

    def counted(self: Path, *arguments: Any, **options: Any) -> Any:
        opened_files.append(self.name)
        return original(self, *arguments, **options)

    for position in range(20):
        resumed = drawn(Mixture([DataSet("s", source)], seed=2), 20, tmp_path / "r.jsonl")
        opened_files.clear()
        monkeypatch.setattr(Path, "open", counted)
        rest = [resumed[place] for place in range(position, 20)]
        monkeypatch.setattr(Path, "open", original)
        assert rest == whole[position:]
        skipped = {f"{runs[place]}.tar" for place in range(0, 5 * (position // 5), 5)}
        assert {name for name in opened_files if name.endswith(".tar")} == {f"{n}.tar" for n in range(4)} - skipped


def test_a_part_is_held_out(tmp_path: Path) -> None:
    source = shards(tmp_path / "shards")
    train, held = parted(source, 0.2, seed=0)
    assert held is not None
    assert (len(train), len(held), len(train.blocks), sum(train.blocks)) == (16, 4, 4, 16)
    texts = [[part.sample(index).caption for index in range(len(part))] for part in (train, held)]
    assert {*texts[0]} | {*texts[1]} == {f"{number}-{key}" for number in range(4) for key in range(5)}
    assert not {*texts[0]} & {*texts[1]}
    firsts = [0]
    for size in train.blocks:
        block = texts[0][firsts[-1] : firsts[-1] + size]
        assert len({text[0] for text in block}) == 1
        firsts.append(firsts[-1] + size)
    again = parted(source, 0.2, seed=0)[1]
    assert again is not None
    assert [again.sample(index).caption for index in range(4)] == texts[1]
    assert parted(source, 0.0, seed=0) == (source, None)


# rejected samples ---------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> DataSet:
    """Nine rows, of which three are good: one has no answer, two pictures are missing, two damaged, one row is not JSON."""
    folder = write_pictures(tmp_path / "data")
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:50])
    (folder / "text.png").write_text("not a picture")
    names = ["red.png", "broken.png", "no.png", "green.png", "text.png", "blue.png", "gone.png"]
    rows = [{"image": name, "caption": name} for name in names]
    file = write(folder / "d.jsonl", *rows, {"image": "red.png"})
    file.write_text(file.read_text() + "{\n")
    return DataSet("mine", opened(file))


def seen(sample: Sample) -> str:
    for ref in sample.pictures:
        picture_of(ref)
    return sample.caption


def test_bad_samples_are_counted_and_replaced(damaged: DataSet, tmp_path: Path) -> None:
    file = tmp_path / "out" / "rejected.jsonl"
    found = Drawn(Mixture([damaged], seed=0), 27, seen, RejectedLog(file))
    got = [*found]
    assert {*got} == {"red.png", "green.png", "blue.png"}
    folder = tmp_path / "data"
    rows = {row["where"]: row for row in map(json.loads, file.read_text().splitlines())}
    assert len(rows) == len(file.read_text().splitlines()) == 6  # each once in three epochs
    assert {where: row["reason"] for where, row in rows.items()} == {
        f"{folder}/d.jsonl:2:1": "a picture cannot be opened",
        f"{folder}/d.jsonl:3:1": "a picture is missing",
        f"{folder}/d.jsonl:5:1": "a picture cannot be opened",
        f"{folder}/d.jsonl:7:1": "a picture is missing",
        f"{folder}/d.jsonl:8:1": "no answer",
        f"{folder}/d.jsonl:9:2": "not valid JSON",
    }
    assert {row["data"] for row in rows.values()} == {"mine"}
    assert rows[f"{folder}/d.jsonl:3:1"]["detail"] == f"{folder}/no.png"
    log = RejectedLog(file)
    assert log.counts() == {
        "a picture cannot be opened": 2, "a picture is missing": 2, "no answer": 1, "not valid JSON": 1,
    }  # fmt: skip
    again = Drawn(Mixture([damaged], seed=0), 27, seen, log)
    assert [*again] == got
    assert len(file.read_text().splitlines()) == 6
    assert [pickle.loads(pickle.dumps(again))[place] for place in range(9)] == got[:9]


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "data")
    rows = [{"image": name, "caption": "x"} for name in ("a" * 5000, "a\0b.png", ".", "http://host/a.png", "red.png")]
    found = Drawn(
        Mixture([DataSet("d", opened(write(folder / "d.jsonl", *rows)))], 0), 5, seen, RejectedLog(tmp_path / "r")
    )
    assert [*found] == ["x"] * 5
    assert found.log.counts() == {"a picture is missing": 4}


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rejected.jsonl"
    RejectedLog(file).add("a", SampleError("no answer", "", "d:1:1"))
    with file.open("a") as out:
        out.write('{"data": "a", "wh')
    log = RejectedLog(file)
    assert log.counts() == {"no answer": 1}
    log.add("a", SampleError("no question", "", "d:2:1"))
    assert RejectedLog(file).counts() == {"no answer": 1, "no question": 1}


def test_a_row_may_hold_any_character(tmp_path: Path) -> None:
    file, where = tmp_path / "rejected.jsonl", "\u2028\x85\x1c.png"
    RejectedLog(file).add("a", SampleError("a picture is missing", where, where))
    log = RejectedLog(file)
    assert [row["detail"] for row in log.rows()] == [where]
    log.add("a", SampleError("a picture is missing", where, where))
    assert file.read_bytes().count(b"\n") == 1


def test_strict(damaged: DataSet, tmp_path: Path) -> None:
    strict = Drawn(Mixture([damaged], seed=0), 9, seen, RejectedLog(tmp_path / "r.jsonl", strict=True))
    with pytest.raises(
        ConfigError, match=r"data\.mine: .*d\.jsonl:\d:\d: .* Try: correct .*, or train without --strict-data"
    ):
        list(strict)
    assert not (tmp_path / "r.jsonl").exists()


def test_data_without_a_good_sample(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", {"image": "no.png", "caption": "a"}, {"image": "no.png"})
    none = Drawn(Mixture([DataSet("mine", opened(file))], seed=0), 4, seen, RejectedLog(tmp_path / "r.jsonl"))
    told = r"data\.mine: no sample can be trained on: a picture is missing \(1\), no answer \(1\)\. Try: .*`vita data check`"
    with pytest.raises(ConfigError, match=told):
        none[0]


def test_data_without_any_picture(tmp_path: Path) -> None:
    text = DataSet("text", opened(write(tmp_path / "t.json", {"conversations": turns("a", "b")}, {"caption": "c"})))
    one = DataSet("one", opened(write(tmp_path / "o.jsonl", {"caption": "c"}, {"image": "a.png", "caption": "c"})))
    with pytest.raises(
        ConfigError,
        match=r"no sample has a picture: text; 1 of 2 samples are rejected, such as .*'image' is missing\. Try: ",
    ):
        check_pictures([text])
    check_pictures([text, one])
    only = DataSet("only", opened(write(tmp_path / "only.json", {"conversations": turns("a", "b")})))
    with pytest.raises(ConfigError, match=r"data: no sample has a picture: only\. Try: "):
        check_pictures([only])


@pytest.mark.slow
def test_the_processes_of_a_data_loader_see_the_same_order(damaged: DataSet, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    mixture = Mixture([damaged, DataSet("s", shards(tmp_path / "shards"))], seed=4)
    alone = [*Drawn(mixture, 60, lambda sample: sample.caption, RejectedLog(tmp_path / "a.jsonl"))]
    shared = Drawn(mixture, 60, lambda sample: sample.caption, RejectedLog(tmp_path / "b.jsonl"))
    loaded = DataLoader(shared, batch_size=4, num_workers=2, collate_fn=list)  # type: ignore[arg-type]  # it has what is needed
    assert [text for batch in loaded for text in batch] == alone
    assert RejectedLog(tmp_path / "b.jsonl").counts() == RejectedLog(tmp_path / "a.jsonl").counts() != {}


def test_processes_that_write_the_same_file_do_not_mix(tmp_path: Path) -> None:
    """The second begins and ends while the first one writes."""
    file = tmp_path / "places.bin"

    def slow(partial: Path) -> None:
        partial.write_bytes(b"half")
        write_whole(file, lambda other: other.write_bytes(b"whole"))
        assert file.read_bytes() == b"whole"
        partial.write_bytes(b"whole too")

    write_whole(file, slow)
    assert file.read_bytes() == b"whole too"
    assert [*tmp_path.iterdir()] == [file]
