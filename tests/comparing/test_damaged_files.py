"""A comparison whose files were damaged: what can be made again is, the rest is an error with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_comparison import config, write_comparison
from small import STAGES, write_config, write_data

from vita_core.comparing.assembling import _losses
from vita_core.comparing.comparison import checked, compare, prepared
from vita_core.comparing.page import write_page
from vita_core.comparing.planned import Options, named
from vita_core.comparing.records import read_known, read_written, refuse_unwritable
from vita_core.comparing.report import write_report
from vita_core.comparing.running import Finished, Run, Runner
from vita_core.errors import ConfigError, VitaError
from vita_core.weights.locks import alone

BROKEN = ["", "{", "[1]", '"a"', "\0\0", "{}", "null", "[" * 2000]


class Compared:
    """A comparison of two configs, whose first one was run."""

    def __init__(self, folder: Path, llm: Path, training: object) -> None:
        self.data, self.out = write_data(folder / "data"), folder / "out"
        self.asked = named([write_config(folder / f"{name}.yaml", llm, training=training) for name in "ab"])
        self.options = Options(seeds=(0,), tokens=4)
        self.first = self.tested()

    def prepared(self) -> tuple[Runner, Run]:
        planned, found = prepared(self.asked, self.data, self.out, self.options)
        runner = Runner(self.out, found)
        return runner, runner.run(planned[0], None, 0)

    def tested(self) -> Finished:
        runner, run = self.prepared()
        found = runner.tested(run)
        assert not runner.failed
        assert found is not None
        return found


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Compared:
    training = {"steps": 2, "batch_size": 4, "warm_start_steps": 0, "variants": 0}
    return Compared(tmp_path_factory.mktemp("flat"), tiny_llm, training)


@pytest.mark.parametrize("text", [*BROKEN, '{"data": "a", "configs": []}', '{"data": 1, "configs": {}}'])
@pytest.mark.reliability(
    door="directory of a comparison",
    fault="records that are damaged",
    expected="they are made again, or an error names them",
)
def test_a_damaged_record_of_what_is_compared_is_an_error(flat: Compared, text: str) -> None:
    record = flat.out / "compared.json"
    whole = record.read_text()
    record.write_text(text)
    with pytest.raises(VitaError, match=r"^--out: .*compared\.json.*: .*\. Try: another directory for --out, since"):
        checked(flat.asked, flat.data, flat.out, flat.options)
    assert record.read_text() == text
    record.write_text(whole)


@pytest.mark.reliability(
    door="directory of a comparison",
    fault="a second comparison with the same --out, while the first one runs",
    expected="an error that names the directory; the first goes on",
)
def test_two_comparisons_do_not_write_to_one_directory(flat: Compared) -> None:
    told = f"{flat.out}: another process is writing to it, such as the same `vita compare`"
    with alone(flat.out, "vita compare"), pytest.raises(VitaError, match=told):
        compare(flat.asked, flat.data, flat.out, flat.options)


@pytest.mark.reliability(
    door="directory of a comparison",
    fault="records that are damaged",
    expected="they are made again, or an error names them",
)
def test_damaged_splits_are_made_again(flat: Compared) -> None:
    folder = flat.out / "data"
    whole = {file.name: file.read_text() for file in folder.iterdir()}
    known = json.loads(whole["data.json"])
    wrong = [{**known, "test": "5"}, {**known, "test_groups": None}, {**known, "splits": 3}, {**known, "sha256": "0"}]
    for text in [*BROKEN, *map(json.dumps, wrong)]:
        (folder / "data.json").write_text(text)
        flat.prepared()
        assert {file.name: file.read_text() for file in folder.iterdir()} == whole, text
    for name in ("train.jsonl", "test.jsonl"):
        for text in (*BROKEN, whole[name].replace("cat", "dog"), whole[name][:-30]):
            (folder / name).write_text(text)
            flat.prepared()
            assert {file.name: file.read_text() for file in folder.iterdir()} == whole, text
        (folder / name).unlink()
        flat.prepared()
        assert (folder / name).read_text() == whole[name]


def test_a_damaged_record_of_a_run_and_its_scores_are_made_again(flat: Compared) -> None:
    folder = flat.first.run.folder
    rows = (folder / "test.jsonl").read_text()
    lines = rows.splitlines(keepends=True)
    changed = [{**json.loads(lines[0]), "loss": value} for value in ("a", float("nan"))]
    fewer = [json.dumps({"image": "a"}) + "\n", *lines[1:]]
    for text in (*BROKEN, rows[:-9], "".join(lines[1:]), "".join(fewer), *(json.dumps(row) for row in changed)):
        (folder / "test.jsonl").write_text(text)
        assert flat.tested().rows == flat.first.rows, text
        assert (folder / "test.jsonl").read_text() == rows
    for text in ("", "[1]", '{"seconds": "a", "validation_loss": null, "peak_bytes": null}'):
        (folder / "run.json").write_text(text)
        again = flat.tested()
        assert again.rows == flat.first.rows
        assert again.record["seconds"] is None  # nothing was trained
        assert json.loads((folder / "run.json").read_text()) == again.record
    (folder / "run.json").unlink()
    for name, text in (("begun.json", "{"), ("work/run.json", "")):
        (folder / name).write_text(text)
        assert flat.tested().rows == flat.first.rows
        (folder / "run.json").unlink()


@pytest.mark.parametrize("text", BROKEN)
def test_a_damaged_line_of_metrics_is_left_out(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.jsonl"
    row = {"stage": "alignment", "step": 1, "loss": 2.5, "time": 3.5}
    file.write_text(f'{json.dumps(row)}\n{text}\n{{"stage": 3, "loss": 1.0, "step": 2}}\n')
    assert _losses(file) == {1: 2.5}
    assert _losses(tmp_path / "missing.jsonl") == {}


@pytest.mark.parametrize("name", ["comparison.json", "timings.json"])
@pytest.mark.parametrize("text", BROKEN)
def test_a_report_of_damaged_files_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    write_comparison(tmp_path, [config("one", 0), config("two", 1)])
    (tmp_path / name).write_text(text)
    for write in (write_report, write_page):
        if text == "{}" and name == "timings.json":
            continue
        with pytest.raises(VitaError, match=rf"{name}.*: .*\. Try: the command of the comparison with the same --out"):
            write(tmp_path)


@pytest.mark.parametrize(
    "change", [{"configs": 3}, {"pairs": [1]}, {"examples": {"a": 1}}, {"cka": "none"}, {"configs": ["a"]}]
)
def test_a_comparison_of_another_form_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    found = write_comparison(tmp_path, [config("one", 0), config("two", 1)])
    (tmp_path / "comparison.json").write_text(json.dumps({**found, **change}))
    for write in (write_report, write_page):
        with pytest.raises(
            VitaError, match=r"comparison\.json.*: not a comparison that can be shown: .*\. Try: the command"
        ):
            write(tmp_path)


@pytest.mark.parametrize(("change", "bug"), [({"pairs": [1]}, TypeError), ({"examples": [{}]}, KeyError)])
def test_a_report_that_fails_for_what_was_just_written_is_a_bug(
    tmp_path: Path, change: dict[str, object], bug: type[Exception]
) -> None:
    found = write_comparison(tmp_path, [config("one", 0), config("two", 1)])
    (tmp_path / "comparison.json").write_text(json.dumps({**found, **change}))
    for write in (write_report, write_page):
        with pytest.raises(bug):
            write(tmp_path, new=True)


def test_a_pipe_is_no_record(tmp_path: Path) -> None:
    """Nothing may ever write to it, so that a reader would wait for ever."""
    os.mkfifo(tmp_path / "a.json")
    assert read_known(tmp_path / "a.json", {}) is None
    with pytest.raises(VitaError, match=r"a\.json: it is a device or a pipe\. Try: again$"):
        read_written(tmp_path / "a.json", "again")


@pytest.mark.parametrize("under", ["file", "file/out"])
@pytest.mark.reliability(
    door="directory of a comparison",
    fault="a directory that cannot be written",
    expected="refused before anything is read",
)
def test_a_directory_that_cannot_be_written_is_refused_early(flat: Compared, tmp_path: Path, under: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out: .*file is a file\. Try: a directory for --out"):
        checked(flat.asked, tmp_path / "not read", tmp_path / under, flat.options)


def test_a_directory_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's answer is replaced: root, who runs the tests in a container, may write everywhere."""
    asked: list[Path] = []

    def denied(path: Path, mode: int) -> bool:
        asked.append(path)
        return mode != os.W_OK | os.X_OK

    monkeypatch.setattr(os, "access", denied)
    with pytest.raises(
        ConfigError, match=r"--out: .* cannot be written\. Try: another directory for --out, or its permi"
    ):
        refuse_unwritable(tmp_path / "new" / "out")
    assert asked == [tmp_path]


def test_a_comparison_with_stages_goes_on_at_another_place(tmp_path: Path, tiny_llm: Path) -> None:
    """A finished run stays. One that was interrupted states its data's place and time, and begins again."""
    one = Compared(tmp_path / "before", tiny_llm, {"stages": STAGES})
    folder = one.first.run.folder.relative_to(one.out)
    for names in (["test.jsonl"], ["test.jsonl", "run.json"]):
        for name in names:
            (one.out / folder / name).unlink()
        moved = tmp_path / names[-1]
        one.out.rename(moved)
        one.out = moved
        assert one.tested().rows == one.first.rows
    (one.out / folder / "run.json").unlink()
    (one.out / folder / "test.jsonl").unlink()
    data = one.out / "data" / "train.jsonl"
    data.write_text(data.read_text())  # as a copy does
    assert one.tested().rows == one.first.rows
