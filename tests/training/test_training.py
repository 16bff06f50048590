"""Training data, the trained directory, resuming, and the score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import vita
from interrupting import interrupted
from safetensors.torch import load_file

from vita_core import build_model, load_config
from vita_core.errors import ConfigError, VitaError
from vita_core.training.align import CachedSamples, Rows
from vita_core.training.data import read_samples
from vita_core.training.evaluate import evaluate, names_it
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.train import train
from vita_core.untrusted.tensorfiles import tensors_sha256
from vita_core.weights.verifying import Verification

QUICK = [
    "training={steps: 4, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1, held_out: 0.25, "
    "eval_steps: 2, save_steps: 2}"
]


def test_three_layouts(captioned: Path, tmp_path: Path) -> None:
    rows = read_samples(captioned)
    assert len(rows) == 12
    assert rows[0].image == captioned.parent / "wide.png"
    (captioned.parent / "wide.txt").write_text("a cat .\n")
    assert [(s.image.name, s.caption) for s in read_samples(captioned.parent)] == [("wide.png", "a cat .")]
    turns = [{"from": "human", "value": "<image>\nwhat is it ?"}, {"from": "gpt", "value": "a dog ."}]
    llava = captioned.parent / "llava.json"
    llava.write_text(json.dumps([{"id": "1", "image": "tall.png", "conversations": turns}]))
    assert read_samples(llava)[0].caption == "a dog ."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "x.png"}\n', r":1:1: no answer: neither a caption nor turns, but \['image'\]"),
        ('{"image": "x.png", "caption": "a"\n', r":1:\d+: not valid JSON"),
        ('{"image": "x.png", "caption": "a"}\n', r"1 of 1 pictures are missing"),
        ("\n", "there is no sample in "),
    ],
)
def test_bad_data(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(text)
    with pytest.raises(VitaError, match=message):
        read_samples(file)


def test_train_writes_what_run_opens(
    tiny_config: Path, tiny_llm: Path, captioned: Path, tmp_path: Path, golden: Path
) -> None:
    out = tmp_path / "out"
    scores = train(load_config(tiny_config, QUICK), [captioned], out, ["made up, CC0"])
    assert {"train_loss", "held_out_loss", "steps", "samples", "held_out"} <= set(scores)
    assert (scores["samples"], scores["held_out"], scores["steps"]) == (9, 3, 4)
    record = json.loads((out / "provenance.json").read_text())
    assert record["data"][0]["licence"] == "made up, CC0"
    assert record["made_by"]["tower"]["distribution"] == "vita-core"
    assert record["tensors_sha256"] == {"projector.safetensors": tensors_sha256(out / "projector.safetensors")}
    assert (record["training"]["steps"], record["training"]["learning_rate"]) == (4, 1e-3)
    assert yaml.safe_load((out / "config.yaml").read_text())["projector"]["weights"] == "./projector.safetensors"
    trained = load_file(out / "projector.safetensors")
    model = build_model(out)
    for key, value in model.projector.state_dict().items():
        assert (value - trained[key].float()).abs().max() == 0
    assert model.ask(golden / "pictures" / "wide.png").tower == "clip"
    checked = {row.path: row.status for row in Verification(out).run()}
    assert (
        checked.pop("projector.safetensors") == checked.pop("config.yaml") == checked.pop("held_out.jsonl") == "intact"
    )
    assert checked.pop(str(golden / "clip" / "model.safetensors")) == "intact"
    assert checked.pop(str(tiny_llm / "model.safetensors")) == "intact"
    assert all(path.startswith(("work/", "metrics.jsonl")) for path in checked)
    (tmp_path / "plain").touch()
    written = ["projector.safetensors", "config.yaml", "provenance.json", "held_out.jsonl"]
    assert {(out / name).stat().st_mode for name in written} == {(tmp_path / "plain").stat().st_mode}
    with pytest.raises(ConfigError, match="another config or other data"):
        train(load_config(tiny_config, [*QUICK, "training.seed=1"]), [captioned], out)
    for text, message in (("{}", "another config or other data"), ("[1]", r"run\.json:1:1: not a JSON object")):
        (out / "work" / "run.json").write_text(text)
        with pytest.raises(VitaError, match=message):
            train(load_config(tiny_config, QUICK), [captioned], out)


def test_a_place_that_cannot_be_written_is_told(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VitaError, match=r"cannot write .*file"):
        train(load_config(tiny_config, QUICK), [captioned], tmp_path / "file" / "out")


def test_features_are_moved_towards_another_sets_moments(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    import numpy as np
    import torch

    config = load_config(tiny_config, [*QUICK, "training.moment_jitter=1"])
    vlm = build_model(config)
    samples = read_samples(captioned)
    cache = FeatureCache(tmp_path, config, vlm.tower, samples)
    cache.array[:] = np.random.default_rng(0).normal(size=cache.shape)
    cache.array[:, 6:] = 3 * cache.array[:, 6:] + 10  # another set: brighter and of higher contrast, say
    rows = Rows(list(range(12)), [0] * 6 + [1] * 6)
    drawn = CachedSamples(cache, rows, [torch.zeros(1)] * 12, draws=400)
    means = torch.stack([drawn[item]["features"].mean() for item in range(400)])
    assert len([mean for mean in means if 2 < mean < 8]) > 100  # between the sets, where no photo of either is
    assert torch.equal(drawn[7]["features"], drawn[7]["features"])
    plain = CachedSamples(cache, rows, [torch.zeros(1)] * 12)
    assert torch.equal(plain[0]["features"], torch.from_numpy(cache.array[0, 0].astype("float32")))


def test_a_dead_channel_and_a_set_of_one_picture_stay_finite(
    tiny_config: Path, captioned: Path, tmp_path: Path
) -> None:
    import numpy as np
    import torch

    config = load_config(tiny_config, [*QUICK, "training.moment_jitter=1"])
    cache = FeatureCache(tmp_path, config, build_model(config).tower, read_samples(captioned))
    cache.array[:] = np.random.default_rng(0).normal(size=cache.shape)
    cache.array[0, :6, :, 0], cache.array[1, :6, :, 0] = 0, 0.01  # dead, but for the altered copies
    drawn = CachedSamples(cache, Rows([0, 1, 2, 6], [0, 0, 0, 1]), [torch.zeros(1)] * 12, draws=100)
    assert max(float(drawn[item]["features"].abs().max()) for item in range(100)) < 100


def test_an_interrupted_run_ends_as_an_unbroken_one(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    from vita_core.training.align import Alignment

    config = load_config(tiny_config, QUICK)
    train(config, [captioned], tmp_path / "whole")
    with interrupted(Alignment, "compute_loss", 6):  # after the checkpoint of step 2 and its evaluation
        train(config, [captioned], tmp_path / "broken")
    assert not (tmp_path / "broken" / "projector.safetensors").exists()
    assert (tmp_path / "broken" / "work" / "alignment" / "checkpoint-2").is_dir()
    train(config, [captioned], tmp_path / "broken")
    whole, broken = (load_file(tmp_path / name / "projector.safetensors") for name in ("whole", "broken"))
    assert all((whole[key] == broken[key]).all() for key in whole)
    records = [json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("whole", "broken")]
    assert records[0] == records[1]


@pytest.mark.slow
def test_a_vocabulary_is_trained_and_goes_on(
    tiny_config: Path, captioned: Path, tmp_path: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    import torch

    tower = tower_examples["torchvision"]
    given = [
        *QUICK,
        f"tower={{type: torchvision, weights: {tower['weights']}, pool: 1, image_size: 64}}",
        "tower.options={architecture: mobilenet_v2, class_scores: true}",
        "projector={type: visual_vocabulary, options: {words: 4}}",
    ]
    few = [*given, "projector.options.words=1"]
    with pytest.raises(VitaError, match=r"options.words: 3 captions name no class"):
        train(load_config(tiny_config, few), [captioned], tmp_path / "few")
    assert not (tmp_path / "few" / "work" / "features.npy").exists()  # told before the pictures were encoded
    torch.manual_seed(0)
    first = tmp_path / "first"
    train(load_config(tiny_config, given), [captioned], first)
    warm, shipped = load_file(first / "work" / "warm_start.safetensors"), load_file(first / "projector.safetensors")
    moved = (warm["table"].half() != shipped["table"]).any(1).nonzero().flatten().tolist()
    assert moved == [1000, 1001, 1002]  # the three captions' words: neither the classes' nor those no caption says
    for key in ("reading.weight", "scale", "norm.weight"):
        assert torch.equal(warm[key].half(), shipped[key])
    on = [*given, f"projector.weights={first / 'projector.safetensors'}"]
    train(load_config(tiny_config, on), [captioned], tmp_path / "on")
    again = load_file(tmp_path / "on" / "work" / "warm_start.safetensors")
    assert torch.equal(again["table"], shipped["table"].float())  # the words go on
    assert not torch.equal(again["reading.weight"], shipped["reading.weight"].float())  # their reading is learned on
    record = json.loads((tmp_path / "on" / "provenance.json").read_text())["weights"]["projector"]
    assert record["made_by_run"]["training"]["steps"] == 4


@pytest.mark.parametrize(
    ("answer", "caption", "names", "expected"),
    [
        ("A grand piano.", "A grand piano.", (), True),
        ("It is a PIANO, I think", "A grand piano.", (), True),
        ("A pianola.", "A grand piano.", (), False),
        ("one two three four five six seven eight piano", "A piano.", (), False),
        ("A tabby cat.", "A tabby.", ("cat",), True),
        ("A German shepherd dog", "An animal.", ("German shepherd",), True),
        ("", "A cat.", (), False),
    ],
)
def test_named(answer: str, caption: str, names: tuple[str, ...], expected: bool) -> None:
    assert names_it(answer, caption, names) is expected


def test_evaluate_counts_and_shuffles(tiny_config: Path, captioned: Path) -> None:
    result = evaluate(build_model(tiny_config), read_samples(captioned), batch=5)
    assert result["n"] == len(result["answers"]) == 12
    assert result["named"] == sum(row["named"] for row in result["answers"]) / 12
    assert set(result["answers"][0]) == {"image", "caption", "answer", "named"}


@pytest.mark.slow
def test_the_commands(tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path) -> None:
    out = tmp_path / "trained"
    done = vita("train", tiny_config, "--data", captioned, "--out", out, "--set", QUICK[0], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4
    scored = vita("eval", out, "--data", captioned, "--json")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["n"] == 12
    answered = vita("run", out, "--image", golden / "pictures" / "wide.png", "--question", "what is this ?", "--json")
    assert answered.returncode == 0, answered.stderr
    keys = {"text", "token_ids", "tower", "llm", "tiles", "visual_tokens", "prompt_tokens", "timings"}
    assert set(json.loads(answered.stdout)) == keys


def test_a_finished_run_stays_as_it_is(tiny_config: Path, captioned: Path, tmp_path: Path, capsys: Any) -> None:
    config, out = load_config(tiny_config, QUICK), tmp_path / "out"
    scores = train(config, [captioned], out)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert train(config, [captioned], out) == scores
    assert "already finished" in capsys.readouterr().err
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    (out / "projector.safetensors").unlink()
    train(config, [captioned], out)  # what is missing is made again
    assert (out / "projector.safetensors").is_file()


def test_a_full_disk_is_an_error_that_says_how_much_is_needed(
    tiny_config: Path, captioned: Path, tmp_path: Path
) -> None:
    """The limit on the size of a file stands for a full disk: both refuse to reserve the blocks."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, hard))  # no other file of the tests is so large
    try:
        with pytest.raises(VitaError, match=r"features\.npy: no space .* 36,876,288 are needed.*training\.variants"):
            train(load_config(tiny_config, [*QUICK, "training.variants=3000"]), [captioned], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out" / "work" / "features.npy").exists()
