"""`vita compare` of two small towers on a small language model: what it writes, and how it goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from browsers import fits, window
from conftest import GOLDEN, vita
from small import STAGES, write_config, write_data

from vita_core.comparing.comparison import _tuned, compare, prepared
from vita_core.comparing.estimating import estimated
from vita_core.comparing.planned import Asked, Options, named
from vita_core.comparing.running import Runner
from vita_core.errors import ConfigError
from vita_core.models.building import build_model
from vita_core.training.data import read_samples
from vita_core.training.evaluate import evaluate
from vita_core.training.joint import Joint, collate
from vita_core.training.making import SampleMaker
from vita_plugins.clip.tower import ClipTower

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TWO = Options(seeds=(0, 1), tokens=4, rates=(1e-3, 1e-2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    """A folder with a data set and two configs."""
    folder = tmp_path_factory.mktemp("comparing")
    write_data(folder / "data")
    for tower in ("clip", "siglip"):
        write_config(folder / f"{tower}.yaml", tiny_llm, tower=tower)
    return folder


@pytest.fixture(scope="module")
def configs(folder: Path) -> list[str]:
    return [str(folder / "clip.yaml"), str(folder / "siglip.yaml")]


@pytest.fixture(scope="module")
def compared(folder: Path, configs: list[str]) -> Path:
    """A comparison of both, with two seeds and two learning rates."""
    compare(named(configs), folder / "data" / "pictures.jsonl", folder / "out", TWO)
    return folder / "out"


def test_a_comparison_says_what_it_found(compared: Path) -> None:
    found = json.loads((compared / "comparison.json").read_text())
    assert [(one["name"], one["failed"], one["tokens"], one["tokens_before"]) for one in found["configs"]] == [
        ("clip", None, 4, 16),
        ("siglip", None, 4, 16),
    ]
    assert sum(found["data"][split] for split in ("train", "validation", "test")) == 30
    told = "vita compare clip.yaml siglip.yaml --data pictures.jsonl --seeds 2 --tokens 4 "
    told += "--tune learning_rate=0.001,0.01 --out DIR"
    assert found["settings"] == {
        "seeds": [0, 1], "tokens": 4, "steps": 2, "tune": {"learning_rate": [0.001, 0.01]}, "resamples": 10000, "command": told,
    }  # fmt: skip
    assert found["configs"][1]["config"]["tower"]["weights"] == "siglip"
    assert len(found["pairs"]) == 2
    for one in found["configs"]:
        rates = {row["validation_loss"]: row["learning_rate"] for row in one["tuning"]}
        assert sorted(rates.values()) == [0.001, 0.01]
        assert one["learning_rate"] == rates[min(rates)]
        runs = compared / "runs" / one["name"] / f"{one['learning_rate']:g}"
        rows = [
            [json.loads(line) for line in (runs / f"seed-{seed}" / "test.jsonl").read_text().splitlines()]
            for seed in (0, 1)
        ]
        assert one["loss"]["mean"] == pytest.approx(np.mean([[row["loss"] for row in each] for each in rows]), rel=1e-5)
        assert one["loss"]["low"] < one["loss"]["mean"] < one["loss"]["high"]
        assert [row["seed"] for row in one["seeds"]] == [0, 1]
        assert [point["step"] for point in one["curve"]] == [1, 2]
        assert one["parameters"]["projector"] > 0 < one["flops_per_picture"]
    assert found["cka"]["towers"] == ["clip", "siglip"]
    assert found["cka"]["matrix"][0][0] == pytest.approx(1, abs=1e-5)
    assert found["cka"]["layers"]["clip"]["layers"] == [0, 1, 2, 3, 4]
    assert {*found["examples"][0]["answers"]} == {"clip", "siglip"}
    assert all((compared / "page" / row["thumbnail"]).is_file() for row in found["examples"])
    assert all((compared / "page" / row["maps"]["siglip"]).is_file() for row in found["examples"])
    assert str(compared.parent) not in (compared / "comparison.json").read_text()
    timings = json.loads((compared / "timings.json").read_text())
    assert timings["clip"]["ms_per_picture"]["low"] <= timings["clip"]["ms_per_picture"]["median"]
    assert timings["clip"]["training_seconds"]["high"] > 0 < timings["clip"]["peak_bytes"]


def test_the_report_says_it_too(compared: Path) -> None:
    found = json.loads((compared / "comparison.json").read_text())
    text = (compared / "comparison.md").read_text()
    assert text.startswith(f"# Comparison\n\n**{found['verdict']}**\n")
    assert all(note in text for note in found["notes"])
    clip = found["configs"][0]
    assert f"| clip | clip clip | 4 of 16 | {clip['loss']['mean']:.3f} (" in text
    assert "near-duplicates" in text
    assert "†" not in text
    page = (compared / "comparison.html").read_text()
    assert found["verdict"].split(" (")[0] in page


@pytest.mark.extras
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_in_a_browser(compared: Path, browser: Browser, width: int, tmp_path: Path) -> None:
    page = compared / "comparison.html"
    with window(browser, width, page.as_uri()) as opened:
        opened.goto(page.as_uri())
        opened.locator("#likeness-towers .main-svg").first.wait_for()
        opened.screenshot(path=tmp_path / "page.png", full_page=True)
        assert fits(opened)
        assert opened.locator("table[data-table=results] tbody tr").count() == 2
        shown = opened.locator("article img")
        examples = json.loads((compared / "comparison.json").read_text())["examples"]
        assert shown.count() == sum(1 + len(row["maps"]) for row in examples) > 6


def test_losses_and_answers_are_those_of_the_trained_model(compared: Path) -> None:
    """The loss is transformers' own of the caption's tokens; the answers and both shares are those of `vita eval`."""
    found = json.loads((compared / "comparison.json").read_text())
    run = compared / "runs" / "clip" / f"{found['configs'][0]['learning_rate']:g}" / "seed-0"
    rows = [json.loads(line) for line in (run / "test.jsonl").read_text().splitlines()]
    samples, model = read_samples(compared / "data" / "test.jsonl"), build_model(run)
    scored = evaluate(model, samples)
    assert [row["answer"] for row in rows] == [row["answer"] for row in scored["answers"]]
    assert np.mean([row["shuffled"] for row in rows]) == scored["shuffled"]
    make = SampleMaker(model, model.settings.prompt, None)
    made = [make(sample) for sample in samples[:3]]
    with torch.no_grad():
        alone = [float(Joint(model)(collate([one]))) for one in made]
    assert [row["loss"] for row in rows[:3]] == pytest.approx(alone, rel=1e-5)
    ids, labels = made[0]["input_ids"], made[0]["labels"]
    place = int((ids < 0).nonzero())
    with torch.no_grad():
        visual = model.encode_each(made[0]["pixels"])[0].flatten(0, 1)
        embeds = torch.cat([model.llm.embed(ids[:place]), visual, model.llm.embed(ids[place + 1 :])])[None]
        shown = torch.cat([labels[:place], torch.full((len(visual),), -100), labels[place + 1 :]])[None]
        expected = model.llm.model(inputs_embeds=embeds, labels=shown).loss
    assert rows[0]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_splits_keep_all_pictures_once(compared: Path, folder: Path) -> None:
    every = [
        sample.image
        for name in ("train", "validation", "test")
        for sample in read_samples(compared / "data" / f"{name}.jsonl")
    ]
    assert sorted(every) == sorted(sample.image for sample in read_samples(folder / "data" / "pictures.jsonl"))


def test_what_is_finished_is_not_run_again(compared: Path, folder: Path, configs: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.glob("runs/**/*") if path.is_file()}
    whole = (compared / "comparison.json").read_bytes()
    compare(named(configs), folder / "data" / "pictures.jsonl", compared, TWO)
    assert {path: path.stat().st_mtime_ns for path in compared.glob("runs/**/*") if path.is_file()} == before
    assert (compared / "comparison.json").read_bytes() == whole


def test_other_data_and_configs_are_refused(compared: Path, folder: Path, configs: list[str], tmp_path: Path) -> None:
    data, asked = folder / "data" / "pictures.jsonl", named(configs)
    for check in (prepared, estimated):
        with pytest.raises(
            ConfigError, match="a comparison of another config of the name 'clip', or its tokens or steps"
        ):
            check(asked, data, compared, Options(tokens=2))
    shutil.copytree(folder / "data", tmp_path / "d")
    fewer = tmp_path / "d" / "pictures.jsonl"
    fewer.write_text("".join(fewer.read_text().splitlines(keepends=True)[:25]))
    before = (compared / "data" / "train.jsonl").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="a comparison of other data"):
        prepared(asked, fewer, compared, TWO)
    assert (compared / "data" / "train.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"--out: .*pictures\.jsonl is a file\. Try: a directory"):
        estimated(asked, data, data, TWO)
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    with pytest.raises(ConfigError, match="contains runs that no comparison made"):
        prepared(asked, data, tmp_path / "mine", TWO)
    again = [Asked(one.name, one.place, ("training.keep=2",)) for one in asked]  # the default, said or not
    assert prepared(again, data, compared, TWO)[1].train == 21
    with pytest.raises(ConfigError, match="one config cannot be compared"):
        prepared(asked[:1], data, tmp_path / "one", TWO)


def test_a_rate_that_diverges_is_not_chosen(folder: Path, tiny_llm: Path, tmp_path: Path) -> None:
    """Without another rate, the config failed."""
    training = {"steps": 4, "batch_size": 4, "warm_start_steps": 0, "variants": 0, "warmup_steps": 0}
    asked = named([write_config(tmp_path / "a.yaml", tiny_llm, training=training), str(folder / "clip.yaml")])
    for rates, best in (((1e37, 1e-3), 1e-3), ((1e37,), None)):
        options = Options(seeds=(0,), tokens=4, rates=rates, unequal=True)
        planned, found = prepared(asked, folder / "data" / "pictures.jsonl", tmp_path / "out", options)
        runner = Runner(tmp_path / "out", found)
        chosen, losses = _tuned(runner, planned[:1], options)
        assert chosen == {"a": best}
        assert losses["a"][0] == {"learning_rate": 1e37, "validation_loss": None}
        assert [*runner.failed.values()] == (
            [] if best else ["no learning rate of --tune gives a validation loss that is a number"]
        )


@pytest.mark.parametrize("stages", [False, True])
def test_a_picture_is_encoded_once_over_all_seeds(
    folder: Path, tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: bool
) -> None:
    training = {"stages": STAGES} if stages else {"steps": 2, "batch_size": 4, "warm_start_steps": 0, "variants": 0}
    asked = named([write_config(tmp_path / name / "a.yaml", tiny_llm, training=training) for name in ("x", "y")])
    planned, found = prepared(asked, folder / "data" / "pictures.jsonl", tmp_path / "out", Options(tokens=4))
    runner, original, counted = Runner(tmp_path / "out", found), ClipTower.encode, []

    def counting(self: ClipTower, pixels: Any, layers: Any) -> Any:
        counted.append(len(pixels))
        return original(self, pixels, layers)

    monkeypatch.setattr(ClipTower, "encode", counting)
    first = runner.tested(runner.run(planned[0], 1e-3, 0))
    encoded = sum(counted)
    seen = 8 if stages else found.train  # two steps of four pictures, or all of them before the first step
    assert encoded == seen + found.validation + found.test
    again = runner.tested(runner.run(planned[1], 1e-2, 0))  # the same tower: the other config has another name only
    assert sum(counted) == encoded
    assert first is not None
    assert again is not None
    assert [row["loss"] for row in first.rows] != [row["loss"] for row in again.rows]
    assert not runner.failed
    if not stages:
        runner.tested(runner.run(planned[0], 1e-3, 1))
        assert sum(counted) == encoded


@pytest.mark.slow
@pytest.mark.reliability(
    door="directory of a comparison",
    fault="a config that fails",
    expected="the others are compared, exit code 3",
)
def test_one_config_that_fails_does_not_lose_the_others(folder: Path, tiny_llm: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(GOLDEN / "clip", tmp_path / "broken")
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    towers = {"clip": GOLDEN / "clip", "siglip": GOLDEN / "siglip", "third": broken}
    configs = [
        write_config(tmp_path / f"{name}.yaml", tiny_llm, tower=str(tower), training={"stages": STAGES})
        for name, tower in towers.items()
    ]
    data = folder / "data" / "pictures.jsonl"
    command = ["compare", *configs, "--data", data, "--out", tmp_path / "out", "--seeds", "1", "--tokens", "4"]
    done = vita(*command)
    assert done.returncode == 3, done.stderr
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [one["failed"] is None for one in found["configs"]] == [True, True, False]
    assert "model.safetensors" in found["configs"][2]["failed"]
    assert str(tmp_path) not in found["configs"][2]["failed"]
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("clip", "siglip")] * 2
    for text in (done.stdout, (tmp_path / "out" / "comparison.md").read_text()):
        assert "third failed: " in text
        assert found["verdict"] in text
    kept = (tmp_path / "out" / "runs" / "clip" / "own" / "seed-0" / "test.jsonl").stat().st_mtime_ns
    weights.write_bytes(whole)
    done = vita(*command, "--json")
    assert done.returncode == 0, done.stderr
    repaired = json.loads(done.stdout)
    assert all(one["failed"] is None for one in repaired["configs"])
    assert repaired["configs"][2]["loss"] == repaired["configs"][0]["loss"]  # the same tower
    assert (tmp_path / "out" / "runs" / "clip" / "own" / "seed-0" / "test.jsonl").stat().st_mtime_ns == kept


@pytest.mark.slow
@pytest.mark.reliability(
    door="directory of a comparison",
    fault="killed twice",
    expected="the same command ends with the same bytes",
)
def test_a_repetition_that_is_killed_twice_gives_the_same_bytes(
    compared: Path, folder: Path, configs: list[str], tmp_path: Path
) -> None:
    """In another directory, killed where a run is half done, and where one is trained but not scored."""
    out, killed = tmp_path / "other" / "place", 0
    command = [
        sys.executable,
        "-m",
        "vita_core",
        "compare",
        *configs,
        "--data",
        str(folder / "data" / "pictures.jsonl"),
    ]
    command += ["--out", str(out), "--seeds", "2", "--tokens", "4", "--tune", "learning_rate=1e-3,1e-2"]
    runs = out / "runs" / "clip" / "0.001"
    for reached in (runs / "seed-0" / "work", out / "runs" / "siglip" / "0.001" / "seed-0" / "config.yaml"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached.exists():
            time.sleep(0.01)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed == 2
    assert not (out / "comparison.json").exists()
    compare(named(configs), folder / "data" / "pictures.jsonl", out, TWO)
    assert (out / "comparison.json").read_bytes() == (compared / "comparison.json").read_bytes()
