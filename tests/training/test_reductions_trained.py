"""Reductions that learn are trained together with the projector, and the directory opens with the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from interrupting import interrupted
from natives import saved_timm
from safetensors.torch import load_file, save_file
from test_training import QUICK

from vita_core import build_model, load_config
from vita_core.config.schema import config_from
from vita_core.errors import ConfigError
from vita_core.training.align import Alignment
from vita_core.training.data import read_samples
from vita_core.training.train import train
from vita_core.untrusted.tensorfiles import tensors_sha256

pytestmark = pytest.mark.usefixtures("queries_registered")
STEPS = {
    "resampler": "[{type: pool, window: 2}, {type: resampler, queries: 4, width: 16, heads: 2}]",
    "tokens without a grid": "{type: resampler, layout: idefics2, queries: 3, depth: 1, heads: 2, head_width: 8, kv_heads: 1}",
    "behind it one that does not learn": "[{type: c_abstractor, queries: 4, hidden_size: 8, depth: 1}, {type: pool, window: 2}]",
}


def logits(model: Any, picture: Path) -> Any:
    with torch.inference_mode():
        return model.encode_images(model.prepare(picture).pixels)


@pytest.mark.parametrize("reduce", STEPS.values(), ids=list(STEPS))
def test_a_short_training_opens_again(
    tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path, reduce: str, capsys: Any
) -> None:
    out = tmp_path / "out"
    config = load_config(tiny_config, [*QUICK, f"tower.reduce={reduce}"])
    train(config, [captioned], out)
    place = "[1]" if "resampler" in reduce and "pool" in reduce else "[0]"
    file = out / f"reduce-{place[1]}.safetensors"
    written = load_file(file)
    assert "training: projector (" in (said := capsys.readouterr().err)
    assert f", reduce ({sum(v.numel() for k, v in written.items() if learned(k)):,} parameters)" in said
    model = build_model(out)
    step = next(step for step in model.tower.resolved.geometry.reductions if step.spec.trainable)
    assert step.key == f"tower.reduce{place}"
    module = model.tower.reductions[int(place[1])]
    for key, value in module.state_dict().items():
        assert torch.equal(value, written[key]), key  # in float32, as it was trained
    picture = golden / "pictures" / "wide.png"
    assert model.ask(picture).visual_tokens == model.tower.num_tokens
    model.save(tmp_path / "saved")
    for again in (build_model(out), build_model(tmp_path / "saved")):
        assert torch.equal(logits(again, picture), logits(model, picture))
    record = json.loads((out / "provenance.json").read_text())
    assert record["tensors_sha256"][file.name] == tensors_sha256(file)
    assert record["made_by"]["reduce"][f"reduce{place}"]["distribution"] == step.owner.distribution
    section = yaml.safe_load((out / "config.yaml").read_text())["tower"]["reduce"]
    assert (section if isinstance(section, dict) else section[int(place[1])])["weights"] == f"./{file.name}"


def learned(key: str) -> bool:
    return key not in ("pos_embed", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


def test_training_lowers_the_loss_and_moves_the_reduction(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    """The logits of a random language model are small, so the loss moves little, but it moves in every run."""
    given = [
        "tower.reduce={type: resampler, queries: 4, width: 16, heads: 2}",
        "training={batch_size: 6, warm_start_batch: 6, variants: 0, held_out: 0.25, warmup_steps: 0}",
    ]
    scores, files = [], []
    for steps, rate, first in ((1, 1e-9, 0), (40, 1e-2, 10)):
        out = tmp_path / str(steps)
        changes = [f"training.steps={steps}", f"training.learning_rate={rate}", f"training.warm_start_steps={first}"]
        scores.append(train(load_config(tiny_config, [*given, *changes]), [captioned], out)["held_out_loss"])
        files.append(load_file(out / "reduce-0.safetensors"))
    assert scores[1] < scores[0] - 0.03
    assert {key for key in files[0] if not torch.equal(files[0][key], files[1][key])} >= {
        "query",
        "attn.in_proj_weight",
    }
    assert torch.equal(files[0]["pos_embed"], files[1]["pos_embed"])  # it is not learned


def test_an_interrupted_run_ends_as_an_unbroken_one(
    tiny_config: Path, captioned: Path, tmp_path: Path, capsys: Any
) -> None:
    """With batch statistics and dropout in the reduction."""
    config = load_config(tiny_config, [*QUICK, "tower.reduce={type: queries}"])
    train(config, [captioned], tmp_path / "whole")
    with interrupted(Alignment, "compute_loss", 6):  # after the checkpoint of step 2 and its evaluation
        train(config, [captioned], tmp_path / "broken")
    train(config, [captioned], tmp_path / "broken")
    for name in ("projector.safetensors", "reduce-0.safetensors"):
        whole, broken = (load_file(tmp_path / run / name) for run in ("whole", "broken"))
        assert all(torch.equal(whole[key], broken[key]) for key in whole), name
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*")}
    train(config, [captioned], tmp_path / "whole")
    assert "already finished" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "whole").rglob("*")}
    (tmp_path / "whole" / "reduce-0.safetensors").unlink()
    train(config, [captioned], tmp_path / "whole")  # what is missing is made again
    again = load_file(tmp_path / "whole" / "reduce-0.safetensors")
    assert all(torch.equal(again[key], broken[key]) for key in broken)


def test_the_cache_holds_the_tokens_before_it(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    """So that a run with another reduction that learns can be told from the same features."""
    reduce = "[{type: pool, window: 2}, {type: queries, queries: 3}, {type: queries}]"
    config = load_config(tiny_config, [*QUICK, f"tower.reduce={reduce}"])
    train(config, [captioned], tmp_path / "out")
    model = build_model(load_config(tiny_config, ["tower.reduce={type: pool, window: 2}"]))
    cached = np.load(tmp_path / "out" / "work" / "features.npy")
    tokens, width = model.tower.num_tokens, model.tower.hidden_size
    assert cached.shape == (2, 12, tokens, width)
    with torch.inference_mode():
        seen = model.tower(model.prepare(read_samples(captioned)[0].image).pixels)[0]
    assert np.array_equal(cached[0, 0], seen.half().numpy())
    assert build_model(tmp_path / "out").tower.num_tokens == 4


def test_a_trained_one_is_trained_further(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    from learning import Queries

    torch.manual_seed(3)
    given = Queries((32,), {"queries": 4, "width": 16}).state_dict()
    save_file(given, tmp_path / "given.safetensors")
    step = f"{{type: queries, weights: {tmp_path / 'given.safetensors'}}}"
    still = [*QUICK, f"tower.reduce={step}", "training.learning_rate=1e-12", "training.weight_decay=0"]
    train(load_config(tiny_config, still), [captioned], tmp_path / "still")
    kept = load_file(tmp_path / "still" / "reduce-0.safetensors")
    assert torch.allclose(kept["query"], given["query"], atol=1e-6)  # the warm start trains the projector only
    warm = load_file(tmp_path / "still" / "work" / "warm_start.safetensors")
    assert all(torch.equal(warm[f"reductions.0.{key}"], value) for key, value in given.items())
    train(load_config(tiny_config, [*QUICK, f"tower.reduce={step}"]), [captioned], tmp_path / "on")
    on = load_file(tmp_path / "on" / "reduce-0.safetensors")
    assert 1e-5 < (on["query"] - given["query"]).abs().max() < 0.1
    record = json.loads((tmp_path / "on" / "provenance.json").read_text())
    assert "sha256" in record["weights"]["reduce"]["reduce[0]"]
    on_again = f"{{type: queries, weights: {tmp_path / 'on' / 'reduce-0.safetensors'}}}"
    train(load_config(tiny_config, [*QUICK, f"tower.reduce={on_again}"]), [captioned], tmp_path / "third")
    record = json.loads((tmp_path / "third" / "provenance.json").read_text())
    assert record["weights"]["reduce"]["reduce[0]"]["made_by_run"]["training"]["steps"] == 4


def test_a_language_model_of_half_precision_gets_float32_reductions(
    tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path
) -> None:
    changes = [*QUICK, "tower.reduce={type: queries}", "llm.dtype=bfloat16", "tower.dtype=bfloat16"]
    train(load_config(tiny_config, changes), [captioned], tmp_path / "out")
    assert load_file(tmp_path / "out" / "reduce-0.safetensors")["query"].dtype == torch.float32
    model = build_model(tmp_path / "out")
    assert {p.dtype for p in model.tower.reductions.parameters()} == {torch.bfloat16}
    assert model.ask(golden / "pictures" / "wide.png").visual_tokens == 4


def test_a_fused_tower(tiny_config: Path, captioned: Path, tmp_path: Path, golden: Path) -> None:
    """The reduction of the whole is trained; that of a part has weights, and stays as it is."""
    from learning import Queries

    file = tmp_path / "part.safetensors"
    given = Queries((32,), {"queries": 4, "width": 32}).state_dict()
    save_file(given, file)
    parts = [
        {"weights": str(golden / "clip"), "reduce": {"type": "pool", "window": 2}},
        {"weights": str(golden / "clip"), "reduce": {"type": "queries", "width": 32, "weights": str(file)}},
    ]
    tower = {"towers": parts, "combine": "sequence", "reduce": {"type": "queries"}}
    train(load_config(tiny_config, [*QUICK, f"tower={json.dumps(tower)}"]), [captioned], tmp_path / "out")
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(record["tensors_sha256"]) == {"projector.safetensors", "reduce-0.safetensors"}
    model = build_model(tmp_path / "out")
    picture = golden / "pictures" / "wide.png"
    assert model.ask(picture).visual_tokens == 4
    model.save(tmp_path / "saved")
    again = load_file(tmp_path / "saved" / "tower" / "1" / "reduce-0.safetensors")
    assert all(torch.equal(again[key], value) for key, value in given.items())
    assert torch.equal(logits(build_model(tmp_path / "saved"), picture), logits(model, picture))


def test_pictures_of_native_resolution_keep_their_own_grids(
    tiny_llm: Path, captioned: Path, tmp_path: Path, golden: Path
) -> None:
    saved_timm(tmp_path / "naflex")
    native = {"tower": {"weights": str(tmp_path / "naflex")}, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    reduce = "tower.reduce={type: c_abstractor, queries: [2, 3], hidden_size: 8, depth: 1}"
    train(config_from(native, [*QUICK, reduce], "config"), [captioned], tmp_path / "out")
    model = build_model(tmp_path / "out")
    assert model.ask(golden / "pictures" / "wide.png").visual_tokens == 6
    assert model.ask(golden / "pictures" / "tall.png").visual_tokens == 6


def test_a_projector_that_is_trained_on_words_is_refused(
    tiny_config: Path, captioned: Path, tmp_path: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    weights = tower_examples["torchvision"]["weights"]
    given = [
        *QUICK,
        f"tower={{type: torchvision, weights: {weights}, image_size: 64, reduce: {{type: queries, width: 1016}}}}",
        "tower.options={architecture: mobilenet_v2, class_scores: true}",
        "projector={type: visual_vocabulary, options: {words: 4}}",
    ]
    message = r"projector\.type: 'visual_vocabulary' is trained on the captions' words.*tower\.reduce\[0\] learns"
    with pytest.raises(ConfigError, match=message):
        train(load_config(tiny_config, given), [captioned], tmp_path / "out")
    assert not (tmp_path / "out" / "work" / "features.npy").exists()
