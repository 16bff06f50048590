"""`vita compare --lmms-eval`: the scores of lmms-eval in all files of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import vita
from made_comparison import config, write_comparison
from small import write_config, write_data

from vita_core.comparing.comparison import compare, prepared
from vita_core.comparing.dividing import Divided
from vita_core.comparing.page import write_page
from vita_core.comparing.planned import Options, named, plan_configs
from vita_core.comparing.report import write_report
from vita_core.comparing.running import Runner
from vita_core.errors import VitaError


def test_the_scores_are_in_the_report_and_on_the_page(tmp_path: Path) -> None:
    first, second, third = config("one", 0), config("two", 1, ["more steps"]), config("three", 2)
    first["lmms_eval"] = {"mme": {"mme_perception_score": 1234.5}, "pope": {"acc": 0.8125}}
    second["lmms_eval"] = {"mme": {"mme_perception_score": 990.0}}
    write_comparison(tmp_path, [first, second, third])
    text = write_report(tmp_path).read_text()
    rows = [line for line in text.partition("## Benchmarks")[2].splitlines() if line.startswith("|")]
    assert rows[0] == "| config | mme_perception_score | pope acc |"
    assert rows[2:5] == ["| one | 1,234 | 0.8125 |", "| two † | 990 | - |", "| three | - | - |"]
    page = write_page(tmp_path).read_text()
    section = page.partition('<section id="benchmarks">')[2].partition("</section>")[0]
    assert 'data-key="1234.5"' in section
    assert "0.8125" in section
    assert "two †" in section
    assert '<a href="#benchmarks">' in page


def test_without_scores_there_is_no_section(tmp_path: Path) -> None:
    write_comparison(tmp_path, [config("one", 0), config("two", 1)])
    assert "Benchmarks" not in write_report(tmp_path).read_text()
    assert "Benchmarks" not in write_page(tmp_path).read_text()


@pytest.mark.extras
def test_the_trained_models_are_scored(tiny_llm: Path, video: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Each model by a local task, as if lmms-eval had been run on its directory; a repetition runs nothing again."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is only in the environment that `make lmms-eval` creates")
    from benchmark_tasks import QUESTION, photos, write_tasks

    from vita_core import build_model

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tasks").mkdir()
    task = str(write_tasks(tmp_path / "tasks", video) / "photos.yaml")
    data = write_data(tmp_path / "data")
    configs = [write_config(tmp_path / f"{tower}.yaml", tiny_llm, tower=tower) for tower in ("clip", "siglip")]
    out = tmp_path / "out"
    with pytest.raises(VitaError, match=r"no such task: 'vita_fotos'"):
        prepared(named(configs), data, out, Options(seeds=(0,), tokens=4, benchmarks=("vita_fotos",)))
    command = ["compare", *configs, "--data", data, "--out", out, "--seeds", "1", "--tokens", "4", "--lmms-eval", task]
    done = vita(*command)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "comparison.json").read_text())
    texts = [QUESTION] * 6 + ["is it a cat ?"] * 6
    for one in found["configs"]:
        model = build_model(out / "runs" / one["name"] / "own" / "seed-0")
        ours = [model.ask(seen, text, max_new_tokens=5).text for seen, text in zip(photos(), texts, strict=True)]
        letters = sum(map(len, ours)) / 12
        assert one["lmms_eval"]["vita_photos"]["letters"] == pytest.approx(letters, rel=1e-5)
    assert "vita_photos letters" in (out / "comparison.md").read_text()
    before = (out / "comparison.json").read_bytes()
    kept = [file.stat().st_mtime_ns for file in sorted(out.rglob("lmms_eval.json"))]
    compare(named(configs), data, out, Options(seeds=(0,), tokens=4, benchmarks=(task,)))
    assert (out / "comparison.json").read_bytes() == before
    assert [file.stat().st_mtime_ns for file in sorted(out.rglob("lmms_eval.json"))] == kept
    assert len(kept) == 2


def test_an_edited_task_is_scored_again(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval itself is replaced: what is tested is when it runs."""
    task = tmp_path / "mine.yaml"
    task.write_text("task: mine\ntest_split: test\n")
    planned = plan_configs(named([write_config(tmp_path / "clip.yaml", tiny_llm)]))[0]
    runner, ran = Runner(tmp_path / "out", Divided("d", 1, 1, 1, 3, (0,), "")), []
    run = runner.run(planned, None, 0)
    run.folder.mkdir(parents=True)

    def scored(*_: Any, **__: Any) -> Any:
        ran.append(1)
        return {"mine": {"acc": float(len(ran))}}

    monkeypatch.setattr("vita_core.comparing.running.benchmark_scores", scored)
    assert [runner.benchmarked(run, [str(task)]) for _ in range(2)] == [{"mine": {"acc": 1.0}}] * 2
    task.write_text("task: mine\ntest_split: validation\n")
    assert runner.benchmarked(run, [str(task)]) == {"mine": {"acc": 2.0}}
    known = run.folder / "lmms_eval.json"
    known.write_text('{"tasks": ["mme"], "scores": {"mme": {"acc": 0.5}}}')  # as an earlier version wrote it
    assert runner.benchmarked(run, ["mme"]) == {"mme": {"acc": 0.5}}
