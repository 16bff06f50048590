"""`vita migrate`, `vita run DIR` and `vita demo`, as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import llava
import pytest
import torch
from checkpoints import edit_config
from conftest import vita
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel
from videos import write_video

from vita_core import build_model, make_plan
from vita_core.errors import CheckpointError
from vita_core.pixels.video import read_frames
from vita_core.planning.migrating import migrate, path_accident
from vita_core.planning.resolution import resolve

SYSTEM = "You are a helpful assistant."
QUESTION = "Describe this images."


def expected(golden: Path, name: str) -> list[int]:
    ids: list[int] = json.loads((golden / "vita15" / "expected_answers.json").read_text())[name]["generated_ids"]
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("flag", [[], ["--checkpoint"]])
def test_run_a_directory(golden: Path, flag: list[str]) -> None:
    picture = golden / "pictures" / "square.png"
    asked = ["--image", picture, "--question", QUESTION, "--system", SYSTEM, "--max-new-tokens", 12, "--json"]
    done = vita("run", *flag, golden / "vita15", *asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token_ids"] == expected(golden, "square")
    assert "vision only: 2 audio tensors skipped" in done.stderr


@pytest.mark.slow
def test_the_seed_command(golden: Path) -> None:
    done = vita(
        *("demo", "--model_path", golden / "vita15", "--image_path", golden / "pictures" / "wide.png"),
        *("--model_type", "qwen2p5_instruct", "--conv_mode", "qwen2p5_instruct", "--question", QUESTION),
        *("--system", SYSTEM, "--max-new-tokens", "12", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token_ids"] == expected(golden, "wide")


@pytest.mark.slow
def test_the_seed_command_on_a_video(golden: Path, tmp_path: Path) -> None:
    """Six seconds are six frames, none of them tiled, each a place in the prompt."""
    file = write_video(tmp_path / "v.mp4", 60, size=(64, 48))
    done = vita(
        *("demo", "--model_path", golden / "vita15", "--video_path", file, "--model_type", "qwen2p5_instruct"),
        *("--conv_mode", "qwen2p5_instruct", "--question", QUESTION, "--max-new-tokens", "5", "--json"),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["tiles"] == [1] * 6
    assert answer["visual_tokens"] == 6 * 4
    untiled = ["device=cpu", "images.tiles=null"]
    model = build_model(checkpoint=golden / "vita15", overrides=untiled)
    assert answer["token_ids"] == model.ask(read_frames(file), QUESTION, max_new_tokens=5).token_ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--image_path", "p.png", "--question", "q", "--audio_path", "a.wav"],
            "--audio_path: audio is not supported: a.wav",
        ),
        (["--image_path", "p.png"], "--question is missing"),
        (["--question", "q"], "one of --image_path and --video_path is needed: neither"),
        (
            ["--image_path", "p.png", "--question", "q", "--model_type", "nemo"],
            "config.json has model_type 'vita-Qwen2'. Try: leave --model_type out",
        ),
        (
            ["--image_path", "p.png", "--question", "q", "--model_type", "qwen"],
            "--model_type: unknown value: 'qwen'. Try: one of mixtral-8x7b",
        ),
        (["--image_path", "p.png", "--question", "q", "--conv_mode", "qwen2"], "prompt.template"),
        (["--image_path", "p.png", "--question", "q"], "p.png: no such file"),
    ],
)
def test_demo_refuses(golden: Path, arguments: list[str], message: str) -> None:
    done = vita("demo", "--model_path", golden / "vita15", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_migrated_config_answers_as_the_checkpoint(golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "config.yaml"
    done = vita("migrate", golden / "vita15", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    keys = {row[0] for row in [*report["became"], *report["ignored"]]}
    assert keys == set(json.loads((golden / "vita15" / "config.json").read_text()))
    became = {row[0]: row[2] for row in report["became"]}
    assert became["mm_projector_type"] == "projector.type: mlp2x_gelu"
    ignored = {row[0]: row[2] for row in report["ignored"]}
    assert ignored["mm_audio_encoder"] == "audio is not supported"
    picture = golden / "pictures" / "tall.png"
    asked = ["--image", picture, "--question", QUESTION, "--system", SYSTEM, "--max-new-tokens", 12, "--json"]
    answer = vita("run", out, *asked, "--set", "device=cpu")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["token_ids"] == expected(golden, "tall")
    again = vita("migrate", golden / "vita15", "--out", out)
    assert again.returncode == 2
    assert f"--out: already exists: {out}" in again.stderr


def test_a_projector_trained_anew_goes_before_the_checkpoints(golden: Path, tmp_path: Path) -> None:
    file, weights = tmp_path / "config.yaml", tmp_path / "projector.safetensors"
    file.write_text(migrate(golden / "vita15").text)
    sizes = {"0.weight": (32, 128), "0.bias": (32,), "2.weight": (32, 32), "2.bias": (32,)}
    save_file({key: torch.full(size, 0.5) for key, size in sizes.items()}, weights)
    model = build_model(file, overrides=[f"projector.weights={weights}", "device=cpu"])
    assert all(bool((parameter == 0.5).all()) for parameter in model.projector.parameters())


def test_the_accident_of_a_path_is_told(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "internvit", tmp_path / "evaluation" / "design")
    shutil.copytree(golden / "vita15", tmp_path / "vita15")
    file = tmp_path / "vita15" / "config.json"
    config = {**json.loads(file.read_text()), "mm_vision_tower": "../evaluation/design"}
    file.write_text(json.dumps(config))
    accident = migrate(tmp_path / "vita15").accident
    assert accident is not None
    assert "would have built 'siglip'" in accident
    assert "because that path contains 'sig'" in accident


@pytest.mark.parametrize(
    ("name", "family", "built"),
    [
        ("/data/eval/clip-vit-large", "clip", "'eva_clip'"),
        ("openai/clip-vit-large-patch14-336", "clip", None),
        ("google/siglip-so400m-patch14-384", "siglip", None),
        ("OpenGVLab/InternViT-300M-448px", "internvit", None),
        ("facebook/dinov2-base", "timm", "would have refused"),
    ],
)
def test_path_accidents(name: str, family: str, built: str | None) -> None:
    accident = path_accident(name, family)
    assert accident is None if built is None else built in str(accident)


@pytest.mark.parametrize("next_", [True, False])
def test_migrated_llava(tmp_path: Path, tiny_llm: Path, golden: Path, next_: bool) -> None:
    """Both layouts: the YAML file gives the answer of the directory."""
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=next_)
    for place in (tmp_path / "hf", llava.original(tmp_path, theirs, tiny_llm)):
        file = tmp_path / f"{place.name}.yaml"
        file.write_text(migrate(place).text)
        picture = golden / "pictures" / "wide.png"
        direct = build_model(checkpoint=place, overrides=["device=cpu"])
        through = build_model(file, overrides=["device=cpu"])
        assert through.ask(picture, "what ?").token_ids == direct.ask(picture, "what ?").token_ids


def test_a_changed_tower_that_does_not_fit_the_checkpoints_projector(tmp_path: Path, tiny_llm: Path) -> None:
    """The width follows from the headers of the weights, where config.json does not state it, as in converted checkpoints."""
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=False)
    beside = llava.original(tmp_path, theirs, tiny_llm, tower_inside=False, adapter=True)
    edit_config(beside, mm_hidden_size=None)
    wide = tmp_path / "wide"
    CLIPVisionModel(CLIPVisionConfig(**{**llava.vision_config().to_dict(), "hidden_size": 48})).save_pretrained(wide)
    shutil.copy(tmp_path / "clip" / "preprocessor_config.json", wide)
    for place in (tmp_path / "hf", beside):
        assert resolve(place).tower.geometry.hidden_size == 16
        with pytest.raises(
            CheckpointError,
            match=rf"{place.name}: its projector was trained for a tower of 16 channels, but this one gives 48\. Try: the tower",
        ):
            resolve(place, tower_weights=str(wide))
    file = tmp_path / "hf.yaml"
    file.write_text(migrate(tmp_path / "hf").text)
    assert make_plan(resolve(file)).stages[1].shape[-1] == 16
    with pytest.raises(CheckpointError, match="a tower of 16 channels, but this one gives 48"):
        resolve(file, [f"tower.weights={wide}"])


def test_another_tower_is_refused_where_the_checkpoints_own_would_be_loaded(golden: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "mine.yaml", Path(shutil.copytree(golden / "internvit", tmp_path / "internvit"))
    file.write_text(migrate(golden / "vita15").text)
    assert resolve(file, [f"tower.weights={other}"]).notes  # a copy is the same tower
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    refused = r"tower.weights: .* is not the tower of .*vita15.* Try: leave it out; to swap the tower, "
    for changed in ([f"tower.weights={other}"], [f"tower.weights={golden / 'clip'}", "tower.type=clip"]):
        with pytest.raises(CheckpointError, match=refused):
            resolve(file, changed)


def test_a_checkpoint_without_a_tower_may_get_another(tmp_path: Path, tiny_llm: Path) -> None:
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=False)
    beside = llava.original(tmp_path, theirs, tiny_llm, tower_inside=False)
    other = Path(shutil.copytree(tmp_path / "clip", tmp_path / "other"))
    file = tmp_path / "mine.yaml"
    file.write_text(migrate(beside, tower_weights=str(other)).text)
    assert str(other) in resolve(file).tower.source.weights
