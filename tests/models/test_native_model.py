"""A whole model with a tower of native resolution: questions, batches, encoding, training, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import vita
from natives import SIZES, picture, saved_timm, saved_transformers
from safetensors import safe_open
from safetensors.torch import load_file

from vita_core import VisionTower, VitaError, build_model, load_config, make_plan
from vita_core.errors import ConfigError, PictureError
from vita_core.training.data import read_samples
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.train import train


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{width}x{height}.png" for width, height in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        picture(*size).save(path)
    return paths


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    """A YAML file of a tower of native resolution and the tiny language model."""
    folder = tmp_path_factory.mktemp("native")
    saved_timm(folder / "naflex")
    (folder / "config.yaml").write_text(
        f"tower: {{weights: ./naflex}}\nllm: {{weights: {tiny_llm}}}\ngeneration: {{max_new_tokens: 5}}\ndevice: cpu\n"
    )
    return folder / "config.yaml"


def test_pictures_of_several_sizes_are_asked_about_alike(config: Path, pictures: list[Path]) -> None:
    torch.manual_seed(0)
    model = build_model(config)
    assert isinstance(model.tower, VisionTower)
    alone = [model.ask(path, "what is this ?") for path in pictures]
    assert len({answer.visual_tokens for answer in alone}) > 2
    assert all(answer.visual_tokens <= 25 and answer.tiles == [1] for answer in alone)
    each = model.ask_each(pictures, "what is this ?")
    assert [answer.token_ids for answer in each] == [answer.token_ids for answer in alone]
    assert [answer.visual_tokens for answer in each] == [answer.visual_tokens for answer in alone]
    both = model.ask(pictures[:2], "what is this ?")
    assert both.visual_tokens == alone[0].visual_tokens + alone[1].visual_tokens


@torch.no_grad()
def test_the_language_model_gets_the_projected_tokens_of_each_picture(config: Path, pictures: list[Path]) -> None:
    """The call of LLaVA's trainers, with two pictures of unequal N in one row and one in the other."""
    model = build_model(config)
    pixels = [model.prepare(path).pixels for path in pictures[:3]]
    ids = torch.tensor([[6, -200, 7, -200, 8], [6, -200, 7, 8, 9]])
    *_, embeds, _ = model.prepare_inputs_labels_for_multimodal(ids, None, torch.ones_like(ids), None, None, pixels)
    one, two, three = (model.projector(model.tower(each))[0] for each in pixels)
    words = model.llm.embed(torch.arange(10))
    first = torch.cat([words[6:7], one, words[7:8], two, words[8:9]])
    second = torch.cat([words[6:7], three, words[7:]])
    torch.testing.assert_close(embeds[0, : len(first)], first)
    torch.testing.assert_close(embeds[1, : len(second)], second)


def test_a_saved_model_answers_the_same(config: Path, pictures: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(config, overrides=["images.max_tokens=12"])
    answers = [model.ask(path, "what is this ?") for path in pictures]
    assert max(answer.visual_tokens for answer in answers) == 12
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved")
    assert [again.ask(path, "what is this ?").token_ids for path in pictures] == [a.token_ids for a in answers]
    assert again.tower.shape == model.tower.shape


@pytest.mark.slow
def test_encode_writes_each_grid(config: Path, pictures: list[Path], tmp_path: Path) -> None:
    out, drawn = tmp_path / "out.safetensors", tmp_path / "map.png"
    done = vita("encode", config, *pictures, "--out", out, "--picture-map", drawn)
    assert done.returncode == 0, done.stderr
    tower = build_model(config).tower
    with safe_open(out, "pt") as file:
        grids = json.loads(file.metadata()["grids"])
    for path, size in zip(pictures, SIZES, strict=True):
        pixels = tower.image_processor.preprocess(picture(*size))["pixel_values"][0]
        rows, cols = pixels.shape[1] // 16, pixels.shape[2] // 16
        found = load_file(out)[str(path)]
        torch.testing.assert_close(found, tower([pixels])[0], atol=1e-5, rtol=0)
        assert found.shape == (1, rows * cols, 32)
        assert grids[str(path)] == f"{rows}x{cols}"
        assert f"{path}: 1 x {rows * cols} x 32, grid {rows}x{cols}\n" in done.stdout
    assert drawn.stat().st_size > 1000


def test_training_pads_no_features(config: Path, pictures: list[Path], tmp_path: Path) -> None:
    """The loss of a mixed batch is that of its pictures one by one, weighted by their answers' tokens."""
    captions = ["a cat .", "a dog .", "a cup .", "a cat ."]
    rows = [json.dumps({"image": str(path), "caption": text}) for path, text in zip(pictures, captions, strict=True)]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows * 2))
    quick = "training={steps: 3, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1, held_out: 0.25}"
    data = tmp_path / "captions.jsonl"
    scores = train(load_config(config, [quick]), [data], tmp_path / "out")
    assert scores["steps"] == 3
    answered = build_model(tmp_path / "out").ask_each(pictures)
    assert len({answer.visual_tokens for answer in answered}) > 2


def test_a_mixed_batch_has_the_loss_of_its_samples(config: Path, tmp_path: Path) -> None:
    from vita_core.training.align import Alignment, collate
    from vita_core.training.warm_start import CaptionWords, WarmStart

    torch.manual_seed(0)
    model = build_model(config)
    answers = [torch.tensor([6, 7, 1]), torch.tensor([8, 1])]
    samples = [
        {"features": torch.randn(count, 32), "answer_ids": ids} for count, ids in zip((25, 6), answers, strict=True)
    ]
    words = CaptionWords(model, ["a cat .", "a dog ."], answers)
    arguments: list[Any] = [model, model.projector, samples, None, tmp_path]
    align = Alignment(*arguments, max_steps=1)
    together = align.compute_loss(model.projector, collate(samples))
    alone = [align.compute_loss(model.projector, collate([sample])) for sample in samples]
    torch.testing.assert_close(together, (3 * alone[0] + 2 * alone[1]) / 5)
    warm = WarmStart(*arguments, captions=words, max_steps=1)
    mixed, first = (warm.compute_loss(model.projector, collate(batch)) for batch in (samples, samples[:1]))
    padded = dict(collate(samples)) | {"tokens": torch.tensor([25, 25])}  # as if the padding were tokens
    assert not torch.isclose(mixed, warm.compute_loss(model.projector, padded))
    assert mixed.isfinite()
    assert first.isfinite()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "images.tiles={max: 4}",
            "images.tiles: tower 'timm' keeps the aspect of each picture, so there is nothing to cut",
        ),
        ("images.anyres={grids: [[1, 2]]}", "images.anyres: tower 'timm' keeps the aspect"),
        ("images.min_tokens=4", "images.min_tokens: tower 'timm' has no lower limit: .* by the rule 'fill'"),
        ("images={min_tokens: 9, max_tokens: 4}", "min_tokens is larger than max_tokens: 9 > 4"),
    ],
)
def test_settings_of_pictures_that_do_not_fit(config: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(config, overrides=[override])


def test_a_budget_needs_native_resolution(tiny_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"images\.max_tokens: tower 'clip' resizes every picture to 56 x 56 pixels"):
        build_model(tiny_config, overrides=["images.max_tokens=9"])


def test_a_budget_with_a_shuffle_counts_the_language_models_tokens(config: Path, pictures: list[Path]) -> None:
    model = build_model(config, overrides=["images.max_tokens=5", "tower.pixel_shuffle=0.5"])
    counts = [model.ask(path, "what is this ?").visual_tokens for path in pictures]
    assert max(counts) in (4, 5)
    assert model.tower.resolved.most_tokens == 5
    with pytest.raises(ConfigError, match=r"with `tower\.select_feature: cls` every picture has one token"):
        build_model(config, overrides=["images.max_tokens=5", "tower.select_feature=cls"])


def test_a_picture_that_is_too_narrow(config: Path, tmp_path: Path) -> None:
    from PIL import Image

    model = build_model(config)
    Image.new("RGB", (2, 20_000)).save(tmp_path / "narrow.png")
    with pytest.raises(PictureError, match="an aspect ratio above 200:1"):
        model.ask(tmp_path / "narrow.png")
    with pytest.raises(VitaError, match="2 x 20000 pixels has an aspect ratio above 200:1"):
        model.tower.image_processor.preprocess(Image.new("RGB", (2, 20_000)))


@pytest.mark.parametrize("rule", ["pixtral", "qwen2_5_vl_vision"])
def test_budgets_of_other_rules(rule: str, tiny_llm: Path, captioned: Path, tmp_path: Path) -> None:
    """`images.max_tokens` of Pixtral and Qwen2.5-VL, with the model's merger: no picture has more, and training stores them."""
    saved_transformers(rule, tmp_path / "tower")
    merger = {"options": {"merger": True}} if rule != "pixtral" else {}
    config = {
        "tower": {"weights": str(tmp_path / "tower"), **merger},
        "llm": {"weights": str(tiny_llm)},
        "images": {"max_tokens": 20} | ({"min_tokens": 4} if merger else {}),
        "device": "cpu",
    }
    model = build_model(config)
    counts = []
    for size in [*SIZES, (8, 8), (400, 300)]:
        answer = model.ask(picture(*size), "what is this ?", max_new_tokens=1)
        counts.append(answer.visual_tokens)
        assert make_plan(config, picture=size).tokens == answer.visual_tokens
    assert max(counts) <= 20
    assert min(counts) >= (4 if merger else 1)
    assert len({*counts}) > 2
    samples = read_samples(captioned)
    cache = FeatureCache(tmp_path / "cache", load_config_of(config), model.tower, samples)
    cache.fill()
    for index, sample in enumerate(samples[:3]):
        features = model.tower(model.prepare(sample.image).pixels)[0]
        torch.testing.assert_close(cache.features(0, index), features, atol=1e-2, rtol=1e-2)


def load_config_of(sections: dict[str, Any]) -> Any:
    from vita_core.config.schema import config_from

    return config_from(sections, [], "config")


def test_a_picture_beyond_the_budget_is_not_cached(config: Path, captioned: Path, tmp_path: Path) -> None:
    model = build_model(config)
    cache = FeatureCache(tmp_path, load_config(config), model.tower, read_samples(captioned))
    cache.shape = (*cache.shape[:2], 3, cache.shape[3])
    cache.array = cache.array[:, :, :3].copy()
    with pytest.raises(VitaError, match=r"images\.max_tokens: a picture has \d+ tokens, more than the budget of 3"):
        cache.fill()


def test_a_projector_of_words_needs_pictures_of_one_size(config: Path, captioned: Path, tmp_path: Path) -> None:
    words = "projector={type: visual_vocabulary, options: {classes: 4, words: 2}}"
    with pytest.raises(ConfigError, match=r"projector\.type: 'visual_vocabulary' is trained on the captions' words"):
        train(load_config(config, [words]), [captioned], tmp_path / "out")
