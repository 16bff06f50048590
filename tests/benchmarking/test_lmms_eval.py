"""lmms-eval itself runs local tasks on a small model: alone, in batches, and in two processes. `make lmms-eval` runs this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark import spread_answers
from benchmark_tasks import NAMES, QUESTION, photos, write_tasks

from vita_core import VitaError, build_model
from vita_core.benchmarking.running import benchmark_scores
from vita_core.errors import ConfigError

pytest.importorskip("lmms_eval", reason="lmms-eval is only in the environment that `make lmms-eval` creates")
pytestmark = pytest.mark.extras

TASKS = ("vita_choices", "vita_pairs", "vita_photos", "vita_video")
COMMAND = '''
"""lmms-eval without a network: it notes which documents each process was asked about, and ends at any other address."""

import json
import os
import socket
import sys
from pathlib import Path

connect = socket.socket.connect


def connect_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("OUTSIDE", address, file=sys.stderr, flush=True)
        os._exit(9)
    return connect(self, address)


socket.socket.connect = connect_here

from lmms_eval.cli.dispatch import main

from vita_core.benchmarking.model import VitaModel

answer = VitaModel.generate_until


def noted(self, requests):
    asked = sorted({(task, number) for *_, number, task, _ in (request.args for request in requests)})
    Path(f"asked-{self.rank}-of-{self.world_size}.json").write_text(json.dumps(asked))
    return answer(self, requests)


VitaModel.generate_until = noted
main()
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, video: Path) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"), video)


@pytest.fixture
def saved(tiny_config: Path, tmp_path: Path) -> Path:
    return spread_answers(tiny_config, tmp_path / "saved")


def lmms_eval(where: Path, folder: Path, *arguments: object, processes: int = 0) -> str:
    """Run the command in the directory `where`, which gets what it writes. Return what it printed."""
    where.mkdir()
    (where / "command.py").write_text(COMMAND)
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    line = [sys.executable, *launched, "command.py", "eval", "--model", "vita", "--include_path", folder]
    done = subprocess.run(
        [*map(str, line), *map(str, arguments), "--log_samples", "--output_path", "out", "--device", "cpu"],
        cwd=where,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def found(where: Path) -> tuple[dict[str, dict[str, float]], dict[str, list[Any]]]:
    """The scores of each task, and the answers to its documents in order."""
    [results] = where.glob("out/**/*_results.json")
    samples = {}
    for task in TASKS:
        [file] = where.glob(f"out/**/*_samples_{task}.jsonl")
        rows = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda row: int(row["doc_id"]))
        samples[task] = [row["filtered_resps"] for row in rows]
    scores = json.loads(results.read_text())["results"]
    kept = ("acc,none", "named,none", "letters,none")
    return {task: {key: scores[task][key] for key in kept if key in scores[task]} for task in TASKS}, samples


def test_one_process_or_two_and_any_batch(folder: Path, saved: Path, tmp_path: Path) -> None:
    """Each of two processes is asked half of the documents; together they give what one process gives, one by one."""
    asked = ("--model_args", f"config={saved}", "--tasks", ",".join(TASKS))
    lmms_eval(tmp_path / "alone", folder, *asked, "--batch_size", 1)
    lmms_eval(tmp_path / "both", folder, *asked, "--batch_size", 4, processes=2)
    whole = json.loads((tmp_path / "alone" / "asked-0-of-1.json").read_text())
    halves = [json.loads((tmp_path / "both" / f"asked-{rank}-of-2.json").read_text()) for rank in (0, 1)]
    assert [len(half) for half in halves] == [18, 18]
    assert sorted(halves[0] + halves[1]) == whole
    scores, answers = found(tmp_path / "alone")
    together, same = found(tmp_path / "both")
    assert together == scores
    for task in TASKS[1:]:
        assert same[task] == answers[task]
    for one, two in zip(same["vita_choices"], answers["vita_choices"], strict=True):
        assert [row[1] for row in one] == [row[1] for row in two]
        assert [float(row[0]) for row in one] == pytest.approx([float(row[0]) for row in two], abs=1e-4)

    model, shown = build_model(saved), photos()
    questions = [QUESTION] * 6 + ["is it a cat ?"] * 6
    ours = [model.ask(one, text, max_new_tokens=5).text for one, text in zip(shown, questions, strict=True)]
    assert answers["vita_photos"] == ours
    assert len(set(ours)) > len(NAMES) // 2  # the answers depend on the pictures
    pairs = [[one, shown[(number + 1) % 12]][: 1 + number % 2] for number, one in enumerate(shown)]
    ours = [model.ask(row, text, max_new_tokens=5).text for row, text in zip(pairs, questions, strict=True)]
    assert answers["vita_pairs"] == ours
    assert scores["vita_pairs"]["letters,none"] == pytest.approx(sum(map(len, ours)) / 12)


def evaluated(folder: Path, task: str, **other: Any) -> Any:
    """One task in this process."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    tasks = TaskManager("ERROR", include_path=str(folder), model_name="vita")
    return simple_evaluate(model="vita", tasks=[task], task_manager=tasks, device="cpu", **other)


def test_what_is_not_supported(folder: Path, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"config={saved},generation.max_new_tokens=3"
    with pytest.raises(VitaError, match=r"vita_sound, document 0.*: dict\. Audio is not supported"):
        evaluated(folder, "vita_sound", model_args=arguments, limit=1)
    with pytest.raises(VitaError, match="vita_photos, document 0: generation_kwargs: num_beams=4 is not supported"):
        evaluated(folder, "vita_photos", model_args=arguments, limit=1, gen_kwargs="num_beams=4")
    with pytest.raises(ConfigError, match="--model_args: config is missing"):
        evaluated(folder, "vita_photos", model_args="", limit=1)
    evaluated(folder, "vita_photos", model_args=arguments, limit=1, gen_kwargs="image_aspect_ratio=pad")
    assert "generation_kwargs that are not used: image_aspect_ratio" in capsys.readouterr().out


def test_requests_that_the_model_refuses(saved: Path) -> None:
    from types import SimpleNamespace

    from vita_core.benchmarking.model import VitaModel

    model = VitaModel(config=str(saved), device="cpu", batch_size="2")
    assert (model.batch_size, model.device.type, model.rank, model.world_size) == (2, "cpu", 0, 1)
    with pytest.raises(VitaError, match="acc_mutual_info: it needs the likelihood of a text alone"):
        model.loglikelihood([SimpleNamespace(args=("", "cat"))])
    with pytest.raises(VitaError, match="generate_until_multi_round: several rounds are not supported"):
        model.generate_until_multi_round([])
    with pytest.raises(VitaError, match="generate_visual_cot: no picture can be generated"):
        model.generate_visual_cot([])
    with pytest.raises(VitaError, match="--apply_chat_template: the prompt is written as the config says"):
        _ = model.chat_template


def test_scores_of_a_saved_model(folder: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may be the path of its file, which says where its data are."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    scores = benchmark_scores(saved, [str(folder / "photos.yaml")], tmp_path / "scores", device="cpu", batch=4)
    model, texts = build_model(saved), [QUESTION] * 6 + ["is it a cat ?"] * 6
    ours = [model.ask(one, text, max_new_tokens=5).text for one, text in zip(photos(), texts, strict=True)]
    assert scores["vita_photos"]["letters"] == pytest.approx(sum(map(len, ours)) / 12)
