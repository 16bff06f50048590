"""Video encoders of tower `transformers` against the library's own hidden states and processors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import close
from families import CONFIGS, VIDEOS, VISION, saved
from PIL import Image
from torch import Tensor

from vita_core import VitaError, build_tower, make_plan
from vita_core.planning.resolution import resolve
from vita_core.testing import CHECKS, open_subject
from vita_core.towers.features import pixel_shuffle
from vita_core.towers.tower import build_resolved
from vita_plugins.transformers import tower as tower_module
from vita_plugins.transformers.video import step_by_step

Auto = transformers.AutoModel
Classifier = transformers.AutoModelForVideoClassification


def written(model_type: str, folder: Path, kind: Any = Auto, **changes: Any) -> Any:
    return saved(kind.from_config(CONFIGS[model_type](**VIDEOS[model_type], **changes)), folder)


def states_of(model: Any, clips: Tensor) -> list[Tensor]:
    """Every hidden state of the library, with TimeSformer's tokens (B, 1 + places * frames, C) put step by step."""
    with torch.no_grad():
        states = model(clips, output_hidden_states=True).hidden_states
    if model.config.model_type != "timesformer":
        return list(states)
    frames = clips.shape[1]
    places = (states[0].shape[1] - 1) // frames
    order = [0, *(1 + place * frames + frame for frame in range(frames) for place in range(places))]
    return [state[:, order] for state in states]


@pytest.mark.parametrize("kind", [Auto, Classifier])
@pytest.mark.parametrize("model_type", VIDEOS)
def test_hidden_states(tmp_path: Path, model_type: str, kind: Any) -> None:
    model = written(model_type, tmp_path, kind)
    base = getattr(model, model.base_model_prefix, model)
    tower = build_tower({"weights": str(tmp_path)})
    frames, prefix = tower.shape.frames, tower.shape.prefix_tokens
    assert (tower.grid, tower.num_tokens) == ((tower.shape.steps, 4, 4), tower.shape.steps * 16)
    clips = torch.randn(2, frames, 3, 56, 56)
    states = states_of(base, clips)
    assert prefix == states[0].shape[1] - tower.num_tokens
    close(tower(clips), states[-1][:, prefix:])
    close(torch.cat(tower(list(clips))), states[-1][:, prefix:])
    part = build_tower({"weights": str(tmp_path), "select_layer": [0, 2]})
    close(part(clips), torch.cat([states[0], states[2]], dim=-1)[:, prefix:])
    assert part.resolved.parameters == sum(parameter.numel() for parameter in part.parameters())
    assert not any("predictor" in name for name, _ in part.named_parameters())
    # in the order they run, so that `freeze: {from_layer: k}` can count them: embeddings, blocks, norm
    names = [name for name, _ in tower.in_run_order(tower.encoder)]
    places = [0 if "embeddings" in name else 1 if re.search(r"\.\d+\.", name) else 2 for name in names]
    assert places == sorted(places)


@pytest.mark.parametrize("model_type", ["timesformer", "vivit", "vjepa2"])
def test_the_final_norm_and_the_cls_token(tmp_path: Path, model_type: str) -> None:
    model = written(model_type, tmp_path)
    features = "patch" if model_type == "vjepa2" else "cls_patch"
    tower = build_tower({"weights": str(tmp_path), "norm": True, "select_feature": features})
    clips = torch.randn(1, tower.shape.frames, 3, 56, 56)
    with torch.no_grad():
        expected = model(clips).last_hidden_state
    found = tower(clips)
    assert found.shape == expected.shape
    if model_type == "timesformer":  # in another order
        expected = torch.cat([expected[:, :1], expected[:, 1:].unflatten(1, (16, 3)).transpose(1, 2).flatten(1, 2)], 1)
    close(found, expected)


def test_the_norm_of_videomae(tmp_path: Path) -> None:
    """The checkpoints that are published for classification have none."""
    model = written("videomae", tmp_path, use_mean_pooling=False)
    tower = build_tower({"weights": str(tmp_path), "norm": True})
    clips = torch.randn(1, 4, 3, 56, 56)
    with torch.no_grad():
        close(tower(clips), model(clips).last_hidden_state)
    pooled = tmp_path / "pooled"
    written("videomae", pooled)
    with pytest.raises(VitaError, match=r"tower\.norm: this encoder has no final norm"):
        build_tower({"weights": str(pooled), "norm": True})


def test_videomae_as_it_was_pretrained(tmp_path: Path) -> None:
    config = CONFIGS["videomae"](**VIDEOS["videomae"])
    model = saved(transformers.VideoMAEForPreTraining(config), tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    clips = torch.randn(1, 4, 3, 56, 56)
    close(tower(clips), states_of(model.videomae, clips)[-1])
    skipped = {name.partition(".")[0] for names in tower.load_report.skipped.values() for name in names}
    assert skipped == {"decoder", "encoder_to_decoder", "mask_token"}


@pytest.mark.parametrize("attention", ["joint_space_time", "space_only"])
def test_the_other_attentions_of_timesformer(tmp_path: Path, attention: str) -> None:
    model = written("timesformer", tmp_path, attention_type=attention)
    tower = build_tower({"weights": str(tmp_path)})
    clips = torch.randn(2, 3, 3, 56, 56)
    if attention == "joint_space_time":
        close(tower(clips), states_of(model, clips)[-1][:, 1:])
        return
    assert (tower.shape.prefix_tokens, tower.grid) == (0, (3, 4, 4))
    with torch.no_grad():
        frames = model(clips, output_hidden_states=True).hidden_states[-1]  # each frame on its own: (6, 17, 32)
    close(tower(clips), frames[:, 1:].reshape(2, 48, 32))


@pytest.mark.parametrize("model_type", VIDEOS)
def test_the_tokens_are_step_by_step_in_rows(tmp_path: Path, model_type: str) -> None:
    """A patch of one step changes the embedding of its own token alone."""
    written(model_type, tmp_path)
    tower = build_tower({"weights": str(tmp_path), "select_layer": 0})
    clips = torch.rand(1, tower.shape.frames, 3, 56, 56).repeat(2, 1, 1, 1, 1)
    clips[1, -1, :, 14:28, 42:56] += 1  # last frame, row 1, column 3
    plain, changed = tower(clips)
    last = tower.shape.steps - 1
    assert (plain != changed).any(dim=-1).nonzero().flatten().tolist() == [last * 16 + 1 * 4 + 3]


def pooled_to(tokens: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Tokens (B, 16, C) of a grid of 4 x 4, averaged in blocks to rows * cols tokens."""
    return tokens.unflatten(1, (rows, 4 // rows, cols, 4 // cols)).mean((2, 4)).flatten(1, 2)


def test_reductions_act_on_each_step(tmp_path: Path) -> None:
    model = written("vivit", tmp_path)
    clips = torch.randn(2, 4, 3, 56, 56)
    patches = states_of(model, clips)[-1][:, 1:]
    steps = patches.unflatten(1, (2, 16)).unbind(1)
    shuffled = build_tower({"weights": str(tmp_path), "pixel_shuffle": 0.5})
    assert (shuffled.grid, shuffled.hidden_size) == ((2, 2, 2), 128)
    close(shuffled(clips), torch.cat([pixel_shuffle(step, 0.5, grid=(4, 4)) for step in steps], dim=1))
    pooled = build_tower({"weights": str(tmp_path), "pool": [2, 1]})
    assert pooled.grid == (2, 2, 1)
    close(pooled(clips), torch.cat([pooled_to(step, 2, 1) for step in steps], dim=1))
    assert make_plan({"tower": {"weights": str(tmp_path), "pool": [2, 1]}}).grid == (2, 2, 1)
    with pytest.raises(VitaError, match=r"tower\.s2: this encoder takes videos, but S2 needs pictures\. Try: "):
        make_plan({"tower": {"weights": str(tmp_path), "s2": {"scales": [56, 112]}}})


def test_the_plan_of_a_video(tmp_path: Path) -> None:
    written("videomae", tmp_path)
    plan = make_plan({"tower": {"weights": str(tmp_path)}})
    assert (plan.frames, plan.grid, plan.tokens) == (4, (2, 4, 4), 32)
    assert [(stage.stage, stage.shape) for stage in plan.stages] == [
        ("video", (1, 4, 3, 56, 56)),
        ("tower", (1, 32, 32)),
    ]


def backwards(state: Tensor, *given: Any) -> Tensor:
    """The tokens of the last step first."""
    tokens = step_by_step(state, *given)
    return torch.cat([tokens[:, :1], tokens[:, 1:].unflatten(1, (3, 16)).flip(1).flatten(1, 2)], dim=1)


def test_the_kit_notices_tokens_that_are_not_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("timesformer", tmp_path)
    (check,) = (check for check in CHECKS if check.name == "tokens_stand_row_by_row")
    with open_subject({"tower": {"weights": str(tmp_path)}}) as subject:
        assert check.run(subject).outcome == "ok"
        monkeypatch.setattr(tower_module, "step_by_step", lambda state, *_: state)  # in the library's order
        assert check.run(subject).outcome == "failed"
        monkeypatch.setattr(tower_module, "step_by_step", backwards)
        assert "wrong half of the video" in check.run(subject).seen


@pytest.mark.parametrize("model_type", VIDEOS)
def test_another_size_is_refused(tmp_path: Path, model_type: str) -> None:
    written(model_type, tmp_path)
    with pytest.raises(VitaError, match=r"tower\.image_size: .*Try: `tower\.image_size: null`, for 56 x 56"):
        make_plan({"tower": {"weights": str(tmp_path), "image_size": 84}})


def test_v_jepa_takes_another_number_of_frames(tmp_path: Path) -> None:
    """Its positions are rotary. The library says that `frames_per_clip` has no effect."""
    model = written("vjepa2", tmp_path)
    resolved = resolve({"tower": {"weights": str(tmp_path), "pool": 2}, "images": {"frames": 6}})
    assert resolved.config.images.frames == 6
    tower = build_resolved(resolved.tower, "cpu")
    assert (tower.shape.pixels, tower.grid, tower.shape.frames) == ((6, 3, 56, 56), (3, 2, 2), 6)
    assert make_plan(resolved).flops > make_plan({"tower": {"weights": str(tmp_path), "pool": 2}}).flops
    clips = torch.randn(1, 6, 3, 56, 56)
    expected = states_of(model, clips)[-1].unflatten(1, (3, 16)).unbind(1)
    close(tower(clips), torch.cat([pooled_to(step, 2, 2) for step in expected], dim=1))
    for frames in (1, 5):  # two frames make one step
        with pytest.raises(VitaError, match=rf"images\.frames: .* videos of 4 frames, not of {frames}\. Try: "):
            resolve({"tower": {"weights": str(tmp_path)}, "images": {"frames": frames}})


def test_pixels_of_another_shape_are_refused(tmp_path: Path) -> None:
    written("vjepa2", tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    for shape in ((1, 3, 56, 56), (1, 3, 3, 56, 56)):
        with pytest.raises(
            VitaError, match=r"pixels have the wrong shape: .*Try: pixels \(B, 4, 3, H, W\), or a list of"
        ):
            tower(torch.zeros(shape))
    with pytest.raises(VitaError, match=r"takes pictures of 56 x 56 pixels, not 28 x 28"):
        tower(torch.zeros(1, 4, 3, 28, 28))


PROCESSORS = ["VideoMAEImageProcessor", "VivitImageProcessor", "VideoMAEVideoProcessor", "VJEPA2VideoProcessor"]
PROCESSORS += [  # transformers 5.6 does not have these
    name for name in ("VivitVideoProcessor", "TimesformerVideoProcessor") if hasattr(transformers, name)
]
FRAMES = [
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (48, 90, 3), dtype=np.uint8)) for number in range(4)
]


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_checkpoints_own_processor(tmp_path: Path, name: str) -> None:
    written("vjepa2", tmp_path)
    crop = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    getattr(transformers, name)(**crop).save_pretrained(tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    pixels = tower.image_processor.preprocess(FRAMES, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, *tower.shape.pixels)
    exact = getattr(transformers, f"{name}Pil", getattr(transformers, name))
    (expected,) = exact(**crop).preprocess(FRAMES, return_tensors="pt").values()
    assert torch.equal(pixels, expected)


def test_fast_processing_is_the_librarys_with_torchvision(tmp_path: Path) -> None:
    written("videomae", tmp_path)
    crop = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    library = transformers.VideoMAEImageProcessor(**crop)
    library.save_pretrained(tmp_path)
    tower = build_tower({"weights": str(tmp_path), "preprocess": "fast"})
    pixels = tower.image_processor.preprocess(FRAMES, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, library.preprocess(FRAMES, return_tensors="pt")["pixel_values"])


def test_a_processor_inside_processor_config(tmp_path: Path) -> None:
    """transformers 5 writes the parts of a processor into one file."""
    written("vjepa2", tmp_path)
    part = {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": 42, "do_sample_frames": True, "fps": 2}
    (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": part}))
    tower = build_tower({"weights": str(tmp_path)})
    assert tower.shape.image_size == (42, 42)
    found = tower.image_processor.preprocess(FRAMES, return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 4, 3, 42, 42)


@pytest.mark.parametrize("model_type", VIDEOS)
def test_without_a_processor_the_librarys_default_is_used(tmp_path: Path, model_type: str) -> None:
    """With the ratio of the edge and the crop that the library's own default has."""
    written(model_type, tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    name = {"vivit": "VivitImageProcessor", "vjepa2": "VJEPA2VideoProcessor"}.get(
        model_type, "VideoMAEImageProcessorPil"
    )
    edge = {"vivit": 64, "vjepa2": 64}.get(model_type, 56)
    kind = getattr(transformers, name)
    library = kind(size={"shortest_edge": edge}, crop_size={"height": 56, "width": 56})
    (expected,) = library.preprocess(FRAMES, return_tensors="pt").values()
    assert torch.equal(tower.image_processor.preprocess(FRAMES, return_tensors="pt")["pixel_values"], expected)


FRAMEWISE: dict[str, dict[str, Any]] = {
    "xclip_vision_model": {**VISION, "num_frames": 4},
    "videoprism_vision_model": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 56,
        "num_frames": 4,
        "tubelet_size": [1, 14, 14],
        "num_spatial_layers": 2,
        "num_temporal_layers": 2,
        "num_auxiliary_layers": 1,
    },
}
"""Encoders of videos whose hidden states are those of frames, or of places."""


@pytest.mark.parametrize("model_type", [name for name in FRAMEWISE if name in CONFIGS])
def test_encoders_that_take_frames_as_a_batch(tmp_path: Path, model_type: str) -> None:
    kind = {"xclip_vision_model": "XCLIPVisionModel", "videoprism_vision_model": "VideoPrismVisionModel"}[model_type]
    model = saved(getattr(transformers, kind)(CONFIGS[model_type](**FRAMEWISE[model_type])), tmp_path)
    tower = build_tower({"weights": str(tmp_path), "layers": "all"})
    assert (tower.grid, tower.shape.frames, tower.shape.prefix_tokens) == ((4, 4, 4), 4, 0)
    clips = torch.randn(2, 4, 3, 56, 56)
    early = build_tower({"weights": str(tmp_path), "select_layer": 2})
    with torch.no_grad():
        if model_type == "xclip_vision_model":  # its blocks get the CLS tokens of all frames
            states = model(clips.flatten(0, 1), output_hidden_states=True).hidden_states
            expected = [state[:, 1:].reshape(2, 64, 32) for state in (states[-1], states[2])]
        else:
            output = model(clips)
            places = output.last_temporal_hidden_state.unflatten(0, (2, 16))  # (B, places, frames, C)
            expected = [places.transpose(1, 2).flatten(1, 2), output.last_spatial_hidden_state.reshape(2, 64, 32)]
            normed = build_tower({"weights": str(tmp_path), "norm": True})
            close(normed(clips), output.last_hidden_state)
    for found, states_ in zip((tower(clips), early(clips)), expected, strict=True):
        close(found, states_)
    assert early.resolved.parameters == sum(parameter.numel() for parameter in early.parameters())
    made = tower.image_processor.preprocess(FRAMES, return_tensors="pt")["pixel_values"]
    assert made.shape == (1, 4, 3, 56, 56)
