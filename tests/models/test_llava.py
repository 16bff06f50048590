"""LLaVA-1.5 and 1.6 in their authors' and Hugging Face's layouts, against transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llava
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, LlavaNextImageProcessorPil, Qwen2Config

from vita_core import build_model
from vita_core.errors import CheckpointError, ConfigError
from vita_core.language.merging import merge
from vita_core.layouts.llava_hf import LAYOUT
from vita_core.pixels.images import open_picture, pad_to_square
from vita_core.planning.tiling import best_grid

PICTURES = ["wide", "tall", "square"]
PROMPT = [3, -200, 9, 10, 11]


def our_logits(model: Any, picture: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        tokens = model.pack(model.encode_images(model.prepare(picture).pixels), picture.size)
        embeds, _ = merge([PROMPT], [tokens], model.llm.embed)
        return model.llm.model(inputs_embeds=embeds).logits


def their_logits(theirs: Any, picture: Image.Image, count: int, **inputs: Any) -> torch.Tensor:
    ids = torch.tensor([[3] + [llava.IMAGE_TOKEN] * count + PROMPT[2:]])
    with torch.no_grad():
        return theirs(input_ids=ids, **inputs).logits


@pytest.mark.parametrize("name", PICTURES)
def test_converted_llava15(tmp_path: Path, tiny_llm: Path, golden: Path, name: str) -> None:
    theirs = llava.converted(tmp_path, tiny_llm, next_=False)
    model = build_model(checkpoint=tmp_path, overrides=["device=cpu"])
    picture = open_picture(golden / "pictures" / f"{name}.png")
    expected = their_logits(theirs, picture, 16, pixel_values=model.prepare(picture).pixels)
    torch.testing.assert_close(our_logits(model, picture), expected, atol=1e-4, rtol=0)
    assert model.settings.prompt.template == "vicuna_v1"


@pytest.mark.parametrize("name", PICTURES)
def test_converted_llava16(tmp_path: Path, tiny_llm: Path, golden: Path, name: str) -> None:
    """Tiles, newlines and unpadding, from the same picture by transformers' own image processor."""
    theirs = llava.converted(tmp_path, tiny_llm, next_=True)
    model = build_model(checkpoint=tmp_path, overrides=["device=cpu"])
    picture = open_picture(golden / "pictures" / f"{name}.png")
    processor = LlavaNextImageProcessorPil.from_pretrained(tmp_path)
    inputs = processor(picture, return_tensors="pt")
    torch.testing.assert_close(model.prepare(picture).pixels, inputs["pixel_values"][0], atol=1e-5, rtol=0)
    ours = our_logits(model, picture)
    expected = their_logits(theirs, picture, ours.shape[1] - len(PROMPT) + 1, **inputs)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert model.settings.prompt.template == "mistral_instruct"
    model.save(tmp_path / "saved")
    assert torch.equal(our_logits(build_model(tmp_path / "saved"), picture), ours)


@pytest.mark.parametrize("next_", [False, True])
@pytest.mark.parametrize("tower_inside", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_original_layout(
    tmp_path: Path, tiny_llm: Path, golden: Path, next_: bool, tower_inside: bool, adapter: bool
) -> None:
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=next_)
    place = llava.original(tmp_path, theirs, tiny_llm, tower_inside=tower_inside, adapter=adapter)
    model = build_model(checkpoint=place, overrides=["device=cpu"])
    picture = open_picture(golden / "pictures" / "wide.png")
    if next_:
        inputs = dict(LlavaNextImageProcessorPil.from_pretrained(tmp_path / "hf")(picture, return_tensors="pt"))
    else:  # padded with the mean, as LLaVA-1.5's authors do
        mean = model.tower.image_processor.image_mean
        padded = pad_to_square(picture, tuple(int(255 * value) for value in mean))
        inputs = dict(model.tower.image_processor(padded, return_tensors="pt"))
    ours = our_logits(model, picture)
    expected = their_logits(theirs, picture, ours.shape[1] - len(PROMPT) + 1, **inputs)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    assert ("tensors of the checkpoint itself" in str(model.resolved.notes)) == tower_inside


def test_llava_on_qwen(tmp_path: Path, tiny_llm: Path, golden: Path) -> None:
    """`llava_qwen`, whose prompts are the tokenizer's own."""
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=True, text=Qwen2Config(**llava.TEXT))
    picture = open_picture(golden / "pictures" / "tall.png")
    inputs = LlavaNextImageProcessorPil.from_pretrained(tmp_path / "hf")(picture, return_tensors="pt")
    for place in (tmp_path / "hf", llava.original(tmp_path, theirs, tiny_llm)):
        model = build_model(checkpoint=place, overrides=["device=cpu"])
        ours = our_logits(model, picture)
        expected = their_logits(theirs, picture, ours.shape[1] - len(PROMPT) + 1, **inputs)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
        assert model.settings.prompt.template == "chat"
    assert model.config.model_type == "llava_qwen2"


def test_a_projector_alone_needs_its_language_model(tmp_path: Path, tiny_llm: Path, golden: Path) -> None:
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=False)
    place = llava.original(tmp_path, theirs, tiny_llm, tower_inside=False, adapter=True)
    base = tmp_path / "base"
    language = LlamaForCausalLM(theirs.config.text_config)
    language.model.load_state_dict(theirs.model.language_model.state_dict())
    language.lm_head.load_state_dict(theirs.lm_head.state_dict())
    language.save_pretrained(base)
    llava.copy_tokenizer(tiny_llm, base)
    picture = open_picture(golden / "pictures" / "wide.png")
    whole = our_logits(build_model(checkpoint=place, overrides=["device=cpu"]), picture)
    with pytest.raises(
        CheckpointError, match=r"already contains a language model: \d+ tensors.*leave --model-base out"
    ):
        build_model(checkpoint=place, model_base=str(base))
    (place / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"contains no language model.*--model-base"):
        build_model(checkpoint=place)
    model = build_model(checkpoint=place, model_base=str(base), overrides=["device=cpu"])
    assert torch.equal(our_logits(model, picture), whole)


def test_the_vision_tower_must_be_somewhere(tmp_path: Path, tiny_llm: Path) -> None:
    llava.converted(tmp_path, tiny_llm, next_=False)
    state = {key: tensor for key, tensor in llava.all_tensors(tmp_path).items() if "vision_tower" not in key}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"contains no tensor of its tower.*--tower-weights"):
        build_model(checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("strategy", "tower", "feature"), [("default", "clip", "patch"), ("full", "clip", "cls_patch")]
)
def test_the_strategy_decides_the_tokens(strategy: str, tower: str, feature: str) -> None:
    config = {"model_type": "llava", "vision_config": {"model_type": tower}, "vision_feature_select_strategy": strategy}
    assert LAYOUT.sections(config, 28)["tower"]["select_feature"] == feature


def test_siglip_has_no_cls_token() -> None:
    config = {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}}
    full = {**config, "vision_feature_select_strategy": "full"}
    assert LAYOUT.sections(full, 28)["tower"]["select_feature"] == "patch"
    with pytest.raises(CheckpointError, match="drops a patch"):
        LAYOUT.sections(config, 28)


def test_max_tiles_leaves_the_larger_grids_out(tmp_path: Path, tiny_llm: Path) -> None:
    from vita_core.planning.resolution import resolve

    llava.converted(tmp_path, tiny_llm, next_=True)
    images = resolve(tmp_path, max_tiles=3).config.images
    assert images.most_tiles == 1 + 3
    with pytest.raises(ConfigError, match="smallest grid has 2"):
        images.at_most(1)


@pytest.mark.parametrize("size", [(100, 30), (30, 100), (64, 64), (1000, 999), (57, 56), (7, 5)])
def test_the_grid_is_transformers(size: tuple[int, int]) -> None:
    from transformers.image_processing_utils import select_best_resolution

    rows, cols = select_best_resolution(size[::-1], llava.PINPOINTS)
    grids = [(height // llava.SIDE, width // llava.SIDE) for height, width in llava.PINPOINTS]
    assert best_grid(size, grids, llava.SIDE) == (rows // llava.SIDE, cols // llava.SIDE)
