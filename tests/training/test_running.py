"""A training in stages, from its config to a directory that opens with the trained values."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import vita
from interrupting import interrupted
from safetensors.torch import load_file

from vita_core import VitaError, build_model
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training import running
from vita_core.training.data.mixing import Drawn
from vita_core.training.joint import Joint, collate
from vita_core.training.record import stage_record
from vita_core.training.running import run_stages
from vita_core.training.train import train
from vita_core.weights.verifying import Verification

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
STAGES = [
    {
        "name": "align",
        "train": {"projector": "full"},
        "learning_rate": 1e-2,
        "steps": 3,
        "batch_size": 2,
        "prompt": "plain",
    },
    {
        "name": "finetune",
        "train": {"projector": "full", "llm": {"lora": {"rank": 2, "dropout": 0.1}}, "tower": {"from_layer": 2}},
        "learning_rate": 1e-2,
        "epochs": 1,
        "batch_size": 4,
        "save_steps": 1,
        "eval_steps": 1,
    },
]


@pytest.fixture
def written(tiny_llm: Path, captioned: Path, tmp_path: Path) -> Path:
    """A config with two stages on twelve captions, of which three are held out."""
    file = tmp_path / "two-stages.yaml"
    data = {
        "tower": {"weights": str(GOLDEN / "clip")},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": STAGES},
    }
    file.write_text(yaml.safe_dump(data))
    return file


def test_two_stages_open_with_the_trained_values(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scores = run_stages(resolve(written), out)
    assert list(scores) == ["align", "finetune"]
    assert scores["align"]["steps"] == 3
    assert scores["finetune"]["steps"] == 3  # 9 samples in batches of 4
    assert all(score["held_out_loss"] > 0 for score in scores.values())
    assert sorted(entry.name for entry in out.iterdir()) == [
        "config.yaml", "llm-adapter", "metrics.jsonl", "projector.safetensors", "provenance.json", "tower", "work",
    ]  # fmt: skip
    checked = [row for row in Verification(out).run() if row.status != "not covered"]
    assert {row.status for row in checked} == {"intact"}
    own = {row.path for row in checked if not row.part}
    assert {"config.yaml", "projector.safetensors", "llm-adapter/adapter_config.json", "tower/config.json"} < own
    model = build_model(out)
    done = load_file(out / "work" / "finetune" / "done.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name.removeprefix("model.")], value) for name, value in done.items())
    frozen = build_model(written).tower.state_dict()
    moved = {name for name, value in model.tower.state_dict().items() if not torch.equal(value, frozen[name])}
    assert moved
    assert not any("embed" in name or "layers.0" in name or "blocks.0" in name for name in moved)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"align", "finetune"}
    assert [row["step"] for row in rows if row["stage"] == "finetune" and "loss" in row] == [1, 2, 3]
    assert run_stages(resolve(written), out, only="align") == scores
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert run_stages(resolve(written), out) == scores
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_stage_may_run_by_itself_first(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards its result is read, and its samples are not."""
    first = run_stages(resolve(written), tmp_path / "out", only="align")
    assert list(first) == ["align"]
    assert not (tmp_path / "out" / "llm-adapter").exists()
    judged: list[Any] = []
    freeze = running.freeze_unused
    monkeypatch.setattr(running, "freeze_unused", lambda *given: judged.append(given) or freeze(*given))
    both = run_stages(resolve(written), tmp_path / "out")
    assert len(judged) == 1
    assert both["align"] == first["align"]
    whole = run_stages(resolve(written), tmp_path / "whole")
    assert both == whole


def test_a_run_that_stopped_goes_on_to_the_same_values(written: Path, tmp_path: Path) -> None:
    run_stages(resolve(written), tmp_path / "whole")
    for batch in (3, 6, 10):  # in the first stage, in its held-out loss, after a checkpoint of the second stage
        with interrupted(Joint, "forward", batch):
            run_stages(resolve(written), tmp_path / "parts")
    run_stages(resolve(written), tmp_path / "parts")
    for name in ("projector.safetensors", "tower/model.safetensors", "llm-adapter/adapter_model.safetensors"):
        whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole), name


@pytest.mark.slow
def test_the_command(written: Path, captioned: Path, tmp_path: Path, golden: Path) -> None:
    out = tmp_path / "out"
    first = vita("train", written, "--out", out, "--stage", "align", "--json")
    assert json.loads(first.stdout)["align"]["steps"] == 3
    assert not (out / "tower").exists()
    told = vita("train", written, "--out", tmp_path / "other", "--data", f"captins={captioned}")
    assert told.returncode == 2
    assert "--data: no data set of this name: 'captins'. Did you mean 'captions'?" in told.stderr
    assert (
        "wrote" in vita("train", written, "--out", tmp_path / "other", "--data", captioned, "--stage", "align").stdout
    )
    assert vita("run", out, "--image", golden / "pictures" / "wide.png").stdout
    told = vita("train", written, "--out", out, "--licence", "CC0")
    assert told.returncode == 2
    assert "--licence: with `training.stages`, a data set states its own: 'CC0'" in told.stderr
    told = vita("train", written, "--out", out, "--stage", "algn")
    assert told.returncode == 2
    assert "--stage: no stage of this name: 'algn'" in told.stderr


def test_bad_samples_are_left_out_and_told(written: Path, captioned: Path, tmp_path: Path) -> None:
    rows = captioned.read_text().splitlines()
    captioned.write_text("\n".join([*rows, '{"image": "missing.png", "caption": "a cat ."}']) + "\n")
    run_stages(resolve(written, ["data.captions.held_out=0"]), tmp_path / "out")
    (rejected,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert (rejected["data"], rejected["reason"]) == ("captions", "a picture is missing")
    with pytest.raises(VitaError, match=r"data\.captions: .*a picture is missing"):
        run_stages(resolve(written, ["data.captions.held_out=0"]), tmp_path / "strict", strict=True)


def test_a_model_of_both_is_the_one_that_was_trained(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values that the trained model computes are those of the opened one, to the bit."""
    made: list[Any] = []

    def built(*args: Any, **options: Any) -> Any:
        made.append(build(*args, **options))
        return made[-1]

    monkeypatch.setattr(running, "build", built)
    run_stages(resolve(written), tmp_path / "out")
    batch = {"input_ids": torch.tensor([3, -200, 5, 6]), "labels": torch.tensor([-100, -100, 5, 6])}
    pixels = torch.randn(1, *made[0].tower.shape.pixels)
    joined = collate([{**batch, "pixels": [pixels], "sizes": [(56, 56)]}])
    with torch.no_grad():
        assert torch.equal(Joint(build_model(tmp_path / "out"))(joined), Joint(made[0])(joined))


@pytest.mark.parametrize("staged", [True, False])
def test_files_of_others_are_not_replaced(staged: bool, written: Path, captioned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "llm").mkdir(parents=True)
    (out / "llm" / "model.safetensors").touch()
    (out / "config.yaml").write_text("tower: {weights: ./mine}\n")
    flat = resolve(written, ["training={steps: 1, warm_start_steps: 0, variants: 0}"])
    run: Any = partial(run_stages, resolve(written), out) if staged else partial(train, flat, [captioned], out)
    with pytest.raises(VitaError, match=r"--out: .* contains config\.yaml, llm, which this training did not write"):
        run()
    assert (out / "config.yaml").read_text() == "tower: {weights: ./mine}\n"
    assert (out / "llm" / "model.safetensors").is_file()


def test_the_provenance_says_what_each_stage_trained(written: Path, tmp_path: Path) -> None:
    run_stages(resolve(written), tmp_path / "out")
    results = json.loads((tmp_path / "out" / "provenance.json").read_text())["results"]
    rows = {stage: {row["part"]: row for row in found["parts"]} for stage, found in results.items()}
    assert rows["align"]["projector"]["trained"] == rows["align"]["projector"]["parameters"] > 0
    assert rows["align"]["tower"] == {**rows["align"]["tower"], "how": "frozen", "trained": 0}
    assert (rows["finetune"]["llm"]["how"], rows["finetune"]["llm"]["trained"] > 0) == ("LoRA, rank 2", True)
    assert results["finetune"]["scores"]["steps"] == 3
    opened = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert "data" not in opened  # paths of this machine


def test_held_out_samples_that_are_all_bad_do_not_stop_a_run(written: Path, captioned: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"image": "missing.png", "caption": "a cat ."}\n' * 4)
    good = ["data.captions.held_out=0", f"data.bad={{path: {bad}, held_out: 0.5}}", "training.stages.0.data=captions"]
    only = [*good[:2], "training.stages.0.data=bad"]
    scores = run_stages(resolve(written, good), tmp_path / "out", only="align")
    assert "held_out_loss" not in scores["align"]
    with pytest.raises(VitaError, match=r"data\.bad: no sample can be trained on: a picture is missing"):
        run_stages(resolve(written, only), tmp_path / "bad", only="align")


def test_other_data_under_the_same_name_are_another_run(written: Path, captioned: Path, tmp_path: Path) -> None:
    run_stages(resolve(written), tmp_path / "out", only="align")
    captioned.write_text(captioned.read_text().replace("a cat", "a dog"))
    with pytest.raises(VitaError, match=r"--out: .* contains a run with another config or other data"):
        run_stages(resolve(written), tmp_path / "out")


def test_a_share_that_leaves_no_samples(written: Path, tmp_path: Path) -> None:
    with pytest.raises(VitaError, match=r"data\.captions\.held_out: 0\.99 of 12 samples leaves none to train on"):
        run_stages(resolve(written, ["data.captions.held_out=0.99"]), tmp_path / "out")


def test_a_resumed_run_reads_nothing_of_what_came_before(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from the first sample of a stage, which tells what it trains."""
    resolved = resolve(written, ["training.stages.0.steps=6", "training.stages.0.save_steps=1"])
    getitem, read = Drawn.__getitem__, list[int]()

    def counted(self: Drawn[Any], position: int) -> Any:
        if len(self) == 12:  # six steps of two samples
            read.append(position)
        return getitem(self, position)

    monkeypatch.setattr(Drawn, "__getitem__", counted)
    with interrupted(Joint, "forward", 4):
        run_stages(resolved, tmp_path / "out", only="align")
    assert read[-1] < 11
    (last, *_) = sorted((tmp_path / "out" / "work" / "align").glob("checkpoint-*"), reverse=True)
    first = 2 * int(last.name.rpartition("-")[2])
    read.clear()
    run_stages(resolved, tmp_path / "out", only="align")
    assert first > 0
    assert read == [0, *range(first, 12)]


def test_reductions_are_trained_if_the_tower_has_any(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside other parts, so that the same stages suit any tower; the table says that there is nothing."""
    run_stages(resolve(written), tmp_path / "without", only="align")
    stages = [{**STAGES[0], "train": {"projector": "full", "reduce": "full"}}, STAGES[1]]
    config = yaml.safe_load(written.read_text())
    config["training"]["stages"] = stages
    written.write_text(yaml.safe_dump(config))
    capsys.readouterr()
    run_stages(resolve(written), tmp_path / "with", only="align")
    assert ["reduce", "full", "0", "0"] in [re.findall(r"\w+", line) for line in capsys.readouterr().err.splitlines()]
    files = [load_file(tmp_path / run / "projector.safetensors") for run in ("without", "with")]
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    rows = json.loads((tmp_path / "with" / "provenance.json").read_text())["results"]["align"]["parts"]
    assert [row["trained"] for row in rows if row["part"] == "reduce"] == [0]
    assert build_model(tmp_path / "with").tower.num_tokens > 0


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"scores": [], "parts": [], "unused": []}', '{"scores": {}, "parts": []}']
)
def test_a_record_of_a_stage_that_says_something_else_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(
        VitaError, match=r"scores\.json:.* not (a JSON object: a list|the record of a finished stage)\. Try: "
    ):
        stage_record(tmp_path)
