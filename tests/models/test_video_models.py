"""A tower of videos with a language model: what is asked about, what it sees, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from vita_core import VitaError, build_model
from vita_core.models.model import VisionLanguageModel
from vita_core.pixels.video import Clip, read_clip

QUESTION = "what is this ?"


@pytest.fixture(scope="module")
def model(vivit: Path, tiny_llm: Path) -> VisionLanguageModel:
    torch.manual_seed(0)
    return build_model(config(vivit, tiny_llm))


def config(vivit: Path, tiny_llm: Path, **images: Any) -> dict[str, Any]:
    tower = {"weights": str(vivit), "pixel_shuffle": 0.5}
    return {
        "tower": tower,
        "llm": {"weights": str(tiny_llm)},
        "images": images,
        "generation": {"max_new_tokens": 4},
        "device": "cpu",
    }


def test_a_video_is_asked_about(model: VisionLanguageModel, vivit: Path, video: Path) -> None:
    answer = model.ask(video, QUESTION)
    assert (answer.tiles, answer.visual_tokens) == ([1], 2 * 2 * 2)
    clip = read_clip(video, 4)
    assert model.ask(clip, QUESTION).token_ids == answer.token_ids
    pixels = transformers.VivitImageProcessor.from_pretrained(vivit).preprocess(clip.frames, return_tensors="pt")
    assert torch.equal(model.prepare(video).pixels, pixels["pixel_values"])
    assert model.prepare(video).size == (80, 64)
    each = model.ask_each([video, clip], QUESTION)
    assert [other.token_ids for other in each] == [answer.token_ids] * 2


def test_a_saved_model_takes_videos(model: VisionLanguageModel, video: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved")
    assert again.settings.images.frames == 4
    assert again.ask(video, QUESTION).token_ids == model.ask(video, QUESTION).token_ids


def test_frames_are_padded_to_squares(vivit: Path, tiny_llm: Path, video: Path) -> None:
    model = build_model(config(vivit, tiny_llm, aspect="pad"))
    clip = read_clip(video, 4)
    border = tuple(int(255 * 0.5) for _ in range(3))
    squares = []
    for frame in clip.frames:
        squares.append(Image.new("RGB", (80, 80), border))
        squares[-1].paste(frame, (0, 8))
    expected = transformers.VivitImageProcessor.from_pretrained(vivit).preprocess(squares, return_tensors="pt")
    assert torch.equal(model.prepare(clip).pixels, expected["pixel_values"])


def test_a_still_picture_is_refused(model: VisionLanguageModel, video: Path, golden: Path) -> None:
    wanted = (
        r"it is a still picture, but tower 'transformers' takes videos of 4 frames\. Try: `--video FILE`, of which "
    )
    for still in (golden / "pictures" / "square.png", Image.new("RGB", (64, 64))):
        with pytest.raises(VitaError, match=wanted + "`images.frames: 4`"):
            model.ask(still, QUESTION)
    with pytest.raises(VitaError, match=r"a clip has 3 frames, but tower 'transformers' takes 4\. Try: read_clip"):
        model.ask(read_clip(video, 3), QUESTION)


def test_a_tower_of_pictures_refuses_a_clip(golden: Path, tiny_llm: Path) -> None:
    model = build_model(
        {"tower": {"weights": str(golden / "clip")}, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    )
    clip = Clip([Image.new("RGB", (64, 64))] * 2)
    with pytest.raises(
        VitaError, match=r"takes pictures, not videos\. Try: its frames as pictures, ask\(clip\.frames\)"
    ):
        model.ask(clip, QUESTION)
    assert model.ask(clip.frames, QUESTION).tiles == [1, 1]
