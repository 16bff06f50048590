"""lmms-eval in a process of its own: its scores, and what is told if there are none."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from vita_core.benchmarking.running import (
    _check_known,
    _named,
    _reason,
    _scores,
    benchmark_scores,
    check_tasks,
    mean_scores,
    task_files,
)
from vita_core.errors import VitaError


def test_it_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VitaError, match="lmms-eval is not installed"):
        benchmark_scores(tmp_path, ["mme"], tmp_path / "out", device="cpu")
    with pytest.raises(VitaError, match="lmms-eval is not installed"):
        check_tasks(["mme"])
    assert not (tmp_path / "out").exists()


def test_numbers_are_read_without_their_errors() -> None:
    """As lmms-eval 0.7.3 writes them."""
    written = {
        "pope": {"alias": "pope", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 1, "f1_stderr,strict": "N/A"}
    }
    assert _scores(written) == {"pope": {"acc": 0.5, "f1,strict": 1.0}}
    assert mean_scores([{"pope": {"acc": 0.5, "f1": 1.0}}, {"pope": {"acc": 1.0}}]) == {"pope": {"acc": 0.75}}
    assert mean_scores([{"pope": {"acc": 0.5}}, {"pope": {"acc": 1.0}}]) == {"pope": {"acc": 0.75}}


def test_the_reason_is_the_last_error() -> None:
    log = "start\nvita_core.errors.VitaError: mme, document 3: audio. Try: another task\nlmms_eval.main: ended\n\n"
    assert _reason(log) == "vita_core.errors.VitaError: mme, document 3: audio"
    assert _reason("start\nKilled\n") == "Killed"
    assert _reason("") == "it printed nothing"


def test_a_task_is_a_name_or_a_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.yaml").write_text(f"test_split: test\ntask: '{name}_task'\n")
    (tmp_path / "a" / "none.yaml").write_text("test_split: test\n")
    one, two, none = (str(tmp_path / file) for file in ("a/one.yaml", "b/one.yaml", "a/none.yaml"))
    assert _named(["mme", one]) == (["mme", "a_task"], {tmp_path / "a"})
    for wrong, message in (
        ([none], "has no key `task`"),
        (["no.yaml"], "no such file"),
        ([one, two], "several folders"),
    ):
        with pytest.raises(VitaError, match=message):
            _named(wrong)


def test_an_unknown_task_is_told_before_anything_is_trained() -> None:
    _check_known(["mme"], ["mme", "pope"])
    with pytest.raises(VitaError, match=r"no such task: 'mne'\. Did you mean 'mme'\? Try: "):
        _check_known(["mne"], ["mme", "pope"])


@pytest.mark.slow
def test_no_scores_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an empty directory there are none, with or without lmms-eval."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(VitaError, match=r"lmms-eval gave no scores for mme: .* Try: read .*log\.txt"):
        benchmark_scores(tmp_path, ["mme"], tmp_path / "scores", device="cpu")
    assert (tmp_path / "scores" / "log.txt").read_text()


def test_the_digest_of_a_task_changes_with_all_that_it_reads(tmp_path: Path) -> None:
    assert task_files(["mme"]) is None
    folder, data = tmp_path / "tasks", tmp_path / "photos.parquet"
    folder.mkdir()
    data.write_bytes(b"rows")
    task, shared, functions = folder / "a.yaml", folder / "_shared", folder / "functions.py"
    task.write_text(
        f"task: a\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ndoc_to_visual: !function functions.f\n"
    )
    functions.write_text("def f(row): return []")
    found = [task_files([str(task)])]
    assert task_files([str(task)]) == found[0]
    for file in (task, functions, data):
        file.write_bytes(file.read_bytes() + b"\n# more")
        found.append(task_files([str(task), "mme"]))
    shared.with_suffix(".yaml").write_text("group: [")  # not YAML: lmms-eval says so
    found.append(task_files([str(task)]))
    assert len({*found}) == 5
