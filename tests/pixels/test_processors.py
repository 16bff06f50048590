"""Pixel values are those the towers were trained on: the slow processors', torchvision's and timm's own."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform

from vita_core import Shape
from vita_core.errors import CheckpointError
from vita_core.pixels.images import open_picture
from vita_core.pixels.processors import image_processor
from vita_plugins import clip, eva_clip, internvit, open_clip, siglip, timm, torchvision

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
SQUARE_56 = Shape.from_stages((56, 56), [(32, (4, 4), 0, 0)])
ODD = [(500, 333), (333, 500), (257, 256), (259, 256), (256, 303), (100, 60), (1000, 999), (30, 900)]

pytestmark = pytest.mark.filterwarnings("error")


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def golden_config(name: str) -> dict[str, Any]:
    if name == "eva_clip":
        return dict(eva_clip.processor({}, SQUARE_56))
    config: dict[str, Any] = json.loads((GOLDEN / name / "preprocessor_config.json").read_text(encoding="utf-8"))
    if name == "siglip_s2":
        config["size"] = {"height": 168, "width": 168}  # the picture is first resized to the largest scale
    return config


def pixels(processor: Any, pictures: Any) -> torch.Tensor:
    values: torch.Tensor = processor.preprocess(pictures, return_tensors="pt")["pixel_values"]
    return values


@pytest.mark.parametrize("picture", ["square", "tall", "wide"])
@pytest.mark.parametrize("name", ["clip", "siglip", "siglip_s2", "internvit", "internvit_6b", "eva_clip"])
def test_pixels_are_those_of_the_slow_processors(name: str, picture: str) -> None:
    expected = load_file(GOLDEN / name / "expected.safetensors")[f"pixels.{picture}"]
    found = pixels(image_processor(golden_config(name)), open_picture(GOLDEN / "pictures" / f"{picture}.png"))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize("kind", ["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"])
def test_every_spelling_of_a_type_is_the_exact_one(kind: str) -> None:
    processor = image_processor({**golden_config("clip"), "image_processor_type": kind})
    assert processor.backend == "pil"
    assert processor.to_dict()["image_processor_type"] == "CLIPImageProcessor"


@pytest.mark.parametrize("fast", [False, True])
def test_a_processor_without_a_pil_backed_class_is_the_librarys(fast: bool) -> None:
    from transformers import DINOv3ViTImageProcessor

    own = DINOv3ViTImageProcessor(size={"height": 48, "width": 48})
    found = image_processor({**own.to_dict(), "image_processor_type": "DINOv3ViTImageProcessorFast"}, fast=fast)
    picture = noise(100, 60)
    expected, pixels = (made.preprocess(picture, return_tensors="pt")["pixel_values"] for made in (own, found))
    assert torch.equal(pixels, expected)
    assert found.preprocess(picture.convert("L"), return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 48)


def test_a_config_from_before_2022() -> None:
    """The hub's own configs of CLIP and InternViT: another key, and plain integers."""
    new = golden_config("clip")
    old = {**new, "size": 56, "crop_size": 56, "feature_extractor_type": "CLIPFeatureExtractor"}
    del old["image_processor_type"]
    picture = noise(90, 70)
    assert torch.equal(pixels(image_processor(old), picture), pixels(image_processor(new), picture))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "RGBA", "CMYK", "I;16", "I", "F"])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_pictures_of_every_mode_are_opened_as_by_open_picture(name: str, mode: str) -> None:
    picture = Image.new(mode, (40, 30))
    processor = image_processor(golden_config(name))
    assert torch.equal(pixels(processor, [picture, noise(9, 9)])[:1], pixels(processor, open_picture(picture)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_processor_can_be_copied_and_pickled(name: str, again: Callable[[Any], Any]) -> None:
    processor = image_processor({**golden_config(name), "crop_offset": "round"})
    processor.size = {"height": 30, "width": 40}
    made = again(processor)
    assert type(made) is type(processor)
    assert made.to_dict() == processor.to_dict()


def test_a_saved_processor_is_a_plain_one(tmp_path: Path) -> None:
    processor = image_processor(golden_config("clip"))
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    picture = noise(90, 70)
    assert saved["image_processor_type"] == "CLIPImageProcessor"
    assert torch.equal(pixels(image_processor(saved), picture), pixels(processor, picture))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_processor_type": "CLIPImageProcesor"}, "Did you mean 'CLIPImageProcessor'"),
        ({"image_processor_type": "zzzzz"}, "Try: one of "),
        ({"size": 56}, "image_processor_type"),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"long": 5}}, "size"),
    ],
)
def test_what_is_no_processor(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        image_processor(config)


@pytest.mark.slow
def test_transformers_is_imported_only_when_used() -> None:
    code = "import sys, vita_core.pixels.processors; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("size", ODD)
def test_torchvisions_preset_is_met_exactly(size: tuple[int, int]) -> None:
    from torchvision.models import MobileNet_V2_Weights

    preset = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    config = torchvision.processor({}, Shape.from_stages((224, 224), [(32, (7, 7), 0, 0)]))
    picture = noise(*size)
    assert (pixels(image_processor(config), picture)[0] - preset(picture)).abs().max() < 1e-6


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_timms_transform_is_met_exactly(size: tuple[int, int], interpolation: str) -> None:
    published = {"interpolation": interpolation, "crop_pct": 0.9, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    transform = create_transform((3, 32, 32), **published)
    config = timm.processor({"pretrained_cfg": published}, Shape.from_stages((32, 32), [(32, (4, 4), 0, 0)]))
    picture = noise(*size)
    assert (pixels(image_processor(config), picture)[0] - transform(picture)).abs().max() < 1e-6


FRAMES = [(32, 32), (33, 33), (32, 48), (49, 31)]
PICTURES = [(500, 333), (30, 900), (257, 256), (20, 21)]


@pytest.mark.parametrize("share", [{}, {"crop_pct": 1.0}])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("frame", FRAMES)
def test_every_crop_mode_of_timm_is_met_exactly(frame: tuple[int, int], mode: str, share: dict[str, float]) -> None:
    shape = Shape.from_stages(frame, [(32, (4, 4), 0, 0)])
    for interpolation in ("bicubic", "bilinear", "lanczos"):
        published = {
            "interpolation": interpolation,
            "crop_mode": mode,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.5] * 3,
            **share,
        }
        transform = create_transform((3, *frame), **published)
        if f"interpolation={interpolation}" not in repr(transform):
            continue  # older versions of timm resize to a frame that is not square by another filter
        own = image_processor(timm.processor({"pretrained_cfg": published}, shape))
        for size in PICTURES:
            assert torch.equal(pixels(own, noise(*size))[0], transform(noise(*size)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random", None])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest", None])
@pytest.mark.parametrize("frame", FRAMES)
def test_the_transform_of_open_clip_is_met_exactly(
    frame: tuple[int, int], mode: str | None, interpolation: str | None
) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    shape = Shape.from_stages(frame, [(32, (4, 4), 0, 0)])
    size = frame[0] if frame[0] == frame[1] else frame
    for more in ({}, {"mean": [0.4, 0.5, 0.6], "std": 0.5, "fill_color": 7}):
        stated = {"interpolation": interpolation, "resize_mode": mode, **more}
        transform = image_transform_v2(PreprocessCfg(size=size, **stated), is_train=False)
        config = open_clip.processor({"preprocess_cfg": stated}, shape)
        own, fast = image_processor(config), image_processor(config, fast=True)
        for picture in (noise(*wanted) for wanted in PICTURES):
            expected = transform(picture)
            assert torch.equal(pixels(own, picture)[0], expected)
            levels = 255 * torch.tensor(config["image_std"]).view(3, 1, 1)
            assert ((pixels(fast, picture)[0] - expected) * levels).abs().max() <= 2.01


@pytest.mark.parametrize(("plugin", "name"), [(clip, "clip"), (siglip, "siglip"), (internvit, "internvit")])
def test_a_checkpoint_without_a_preprocessor_config_is_seen_alike(plugin: Any, name: str) -> None:
    picture = noise(90, 31)
    own = image_processor(plugin.processor({}, SQUARE_56))
    assert torch.equal(pixels(own, picture), pixels(image_processor(golden_config(name)), picture))


@pytest.mark.parametrize("size", [(90, 30), (30, 90)])
def test_a_size_that_is_not_square(size: tuple[int, int]) -> None:
    config = {
        **golden_config("clip"),
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 20, "width": 40},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    white = Image.new("RGB", size, (255, 255, 255))
    assert torch.equal(pixels(image_processor(config), white), torch.ones(1, 3, 20, 40))  # a padded border would be -1
