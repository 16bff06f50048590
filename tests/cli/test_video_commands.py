"""The commands with a tower of videos, and with videos for a tower of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import vita
from PIL import Image
from safetensors.torch import load_file

from vita_core import build_tower
from vita_core.pixels.video import read_clip, read_frames

pytestmark = pytest.mark.slow


@pytest.fixture
def video_config(tmp_path: Path, vivit: Path, tiny_llm: Path) -> Path:
    file = tmp_path / "video.yaml"
    file.write_text(
        f"tower: {{weights: {vivit}, pixel_shuffle: 0.5}}\nllm: {{weights: {tiny_llm}}}\nimages: {{frames: 4}}\n"
        "generation: {max_new_tokens: 4}\ndevice: cpu\n"
    )
    return file


def test_plan_and_check(vivit: Path, video_config: Path) -> None:
    done = vita("plan", video_config)
    assert "1 x 4 x 3 x 56 x 56" in done.stdout
    assert "One video of 4 frames: layers [2], grid 2 x 2 x 2" in done.stdout
    plan = json.loads(vita("plan", "--weights", vivit, "--json").stdout)
    assert (plan["frames"], plan["grid"], plan["tokens"]) == (4, [2, 4, 4], 32)
    checked = vita("check", video_config, "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    outcomes = {row["check"]: row["outcome"] for row in json.loads(checked.stdout)["checks"]}
    assert outcomes["s2_is_as_planned"] == "skipped"
    assert set(outcomes.values()) == {"ok", "skipped"}
    for name in (
        "tokens_stand_row_by_row",
        "pool_is_as_planned",
        "pixel_shuffle_is_as_planned",
        "layers_are_as_planned",
    ):
        assert outcomes[name] == "ok"
    assert outcomes["processor_gives_the_towers_pixels"] == outcomes["processor_normalises_as_stated"] == "ok"


def test_encode_takes_videos(vivit: Path, video: Path, tmp_path: Path) -> None:
    out, drawn = tmp_path / "o.safetensors", tmp_path / "map.png"
    done = vita("encode", "--weights", vivit, "--video", video, "--out", out, "--picture-map", drawn, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["grid"] == "2x4x4"
    tower = build_tower({"weights": str(vivit)})
    pixels = tower.image_processor.preprocess(read_clip(video, 4).frames, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(load_file(out)[str(video)], tower(pixels))
    assert Image.open(drawn).size == (2 * 336, 2 * 336)  # a row for each step
    plain = tmp_path / "plain.safetensors"  # the option may be left out, since the tower takes nothing else
    assert vita("encode", "--weights", vivit, video, "--out", plain).returncode == 0
    torch.testing.assert_close(load_file(plain), load_file(out))


def test_encode_takes_the_frames_for_a_tower_of_pictures(golden: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    arguments = ["--weights", golden / "clip", "--out", out, "--set", "images.frames=3", "--set", "images.tiles.max=2"]
    done = vita("encode", *arguments, "--video", video)
    assert done.returncode == 0, done.stderr
    tower = build_tower({"weights": str(golden / "clip")})
    pixels = tower.image_processor.preprocess(read_frames(video, 3), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(load_file(out)[str(video)], tower(pixels))
    assert load_file(out)[str(video)].shape[0] == 3
    both = vita("encode", *arguments, "--video", video, golden / "pictures" / "square.png")
    assert "CONFIG and --tower or --weights are both given" not in both.stderr
    assert "pictures and --video exclude each other" in both.stderr


def test_run_asks_about_a_video(video_config: Path, video: Path, tiny_config: Path) -> None:
    done = vita("run", video_config, "--video", video, "--json", "-q", "what is this ?")
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["tiles"], json.loads(done.stdout)["visual_tokens"]) == ([1], 8)
    wrong = vita("run", video_config, "--video", video, "--max-frames", 3)
    assert "max_frames: tower 'transformers' takes videos of 4 frames, not of 3" in wrong.stderr
    done = vita("run", tiny_config, "--video", video, "--set", "images.frames=2", "--json", "-q", "what is this ?")
    assert json.loads(done.stdout)["tiles"] == [1, 1]


def test_still_pictures_are_refused(video_config: Path, golden: Path, tmp_path: Path, captioned: Path) -> None:
    pictures = golden / "pictures"
    for arguments in (
        ["run", video_config, "--image", pictures / "square.png"],
        ["run", video_config, "--images", pictures, "--jsonl", tmp_path / "a.jsonl"],
        ["plan", video_config, "--picture", "640x480"],
        ["encode", video_config, pictures / "square.png", "--out", tmp_path / "o.safetensors"],
        ["encode", video_config, "--video", pictures / "square.png", "--out", tmp_path / "o.safetensors"],
        ["train", video_config, "--data", captioned, "--out", tmp_path / "trained"],
        ["eval", video_config, "--data", captioned],
    ):
        done = vita(*arguments)
        assert done.returncode == 2, arguments
        assert "but tower 'transformers' takes videos of 4 frames. Try: `--video FILE`, of which" in done.stderr
        assert "Traceback" not in done.stderr
