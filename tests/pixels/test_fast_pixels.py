"""`preprocess: fast`: pixels within 2 of 255 levels of the exact ones, features that agree, for every tower."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from conftest import FAMILIES, REPOSITORY, golden_settings
from PIL import Image
from safetensors.torch import load_file
from test_processors import GOLDEN, golden_config, noise, pixels

from vita_core import build_tower, list_towers
from vita_core.config.schema import ImagesConfig
from vita_core.errors import CheckpointError
from vita_core.models.pictures import prepare
from vita_core.pixels.anyres import cut_anyres
from vita_core.pixels.images import bicubic, cut_tiles, open_picture
from vita_core.pixels.processors import fast_resizer, image_processor

PICTURES = ["square", "tall", "wide"]
PHOTO = REPOSITORY / "examples" / "pictures" / "cat.jpg"
SKIMAGE = ["astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg"]

pytestmark = pytest.mark.filterwarnings("error")


def levels(found: torch.Tensor, expected: torch.Tensor, processor: Any) -> float:
    """The largest difference in levels of 255, in the channel with the smallest deviation."""
    return float((found - expected).abs().max()) * 255 * min(processor.image_std)


def photo(name: str) -> Path:
    data = Path(skimage.__file__).parent / "data"
    return PHOTO if name == PHOTO.name else data / name


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", FAMILIES)
def test_golden_pixels(name: str, picture: str) -> None:
    expected = load_file(GOLDEN / name / "expected.safetensors")[f"pixels.{picture}"]
    processor = image_processor(golden_config(name), fast=True)
    found = pixels(processor, open_picture(GOLDEN / "pictures" / f"{picture}.png"))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert levels(found, expected.reshape(found.shape), processor) <= 2.001


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", FAMILIES)
def test_golden_features(name: str, picture: str) -> None:
    tower = build_tower({**golden_settings(name), "preprocess": "fast"})
    expected = load_file(GOLDEN / name / "expected.safetensors")[f"features.{picture}"]
    with torch.inference_mode():
        found = tower(prepare(tower, ImagesConfig(), GOLDEN / "pictures" / f"{picture}.png").pixels)
    assert torch.cosine_similarity(found, expected.reshape(found.shape), dim=-1).min() >= 0.999


@pytest.mark.parametrize("name", [spec.name for spec in list_towers() if spec.example])
def test_every_tower(name: str, tower_examples: dict[str, dict[str, Any]]) -> None:
    fast, exact = (build_tower({**tower_examples[name], "preprocess": how}) for how in ("fast", "exact"))
    assert fast.image_processor.backend == "torchvision"
    assert exact.image_processor.backend == "pil"
    for picture in PICTURES:
        a, b = (
            prepare(tower, ImagesConfig(), GOLDEN / "pictures" / f"{picture}.png").pixels for tower in (fast, exact)
        )
        assert 0 < levels(a, b, exact.image_processor) <= 2.001
        with torch.inference_mode():
            assert torch.cosine_similarity(exact(a), exact(b), dim=-1).min() >= 0.999


@pytest.mark.parametrize("name", [PHOTO.name, *SKIMAGE])
@pytest.mark.parametrize("side", [64, 224, 384])
def test_photos(name: str, side: int) -> None:
    """Real photos, shrunk and enlarged, by as much as eleven times."""
    config = {**golden_config("clip"), "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    exact, fast = image_processor(config), image_processor(config, fast=True)
    picture = open_picture(photo(name))
    assert levels(pixels(fast, picture), pixels(exact, picture), exact) <= 2.001


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (257, 256), (100, 60), (30, 900), (11, 7)])
@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("offset", ["floor", "round"])
@pytest.mark.parametrize("crop", [(40, 40), (41, 39), (51, 65)])  # the last is larger than what is cropped: a border
def test_odd_sizes(size: tuple[int, int], resample: int, offset: str, crop: tuple[int, int]) -> None:
    made = {"shortest_edge": 50}, {"height": crop[0], "width": crop[1]}, {"crop_offset": offset, "resample": resample}
    config = {**golden_config("clip"), "size": made[0], "crop_size": made[1], **made[2]}
    exact, fast = image_processor(config), image_processor(config, fast=True)
    picture = noise(*size)
    assert levels(pixels(fast, picture), pixels(exact, picture), exact) <= 2.001


@pytest.mark.parametrize(
    "changes", [{"do_normalize": False}, {"do_rescale": False}, {"do_resize": False, "resample": 0}]
)
def test_steps_left_out(changes: dict[str, Any]) -> None:
    config = {**golden_config("clip"), **changes}
    picture = noise(56, 56)
    found, expected = (pixels(image_processor(config, fast=fast), picture).float() for fast in (True, False))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode(mode: str) -> None:
    picture = Image.new(mode, (40, 30))
    processor = image_processor(golden_config("clip"), fast=True)
    assert torch.equal(pixels(processor, [picture, noise(9, 9)])[:1], pixels(processor, open_picture(picture)))


@pytest.mark.parametrize("kind", [np.array, lambda picture: torch.from_numpy(np.array(picture))])
def test_arrays_and_tensors_are_left_as_they_are(kind: Callable[[Image.Image], Any]) -> None:
    processor = image_processor({**golden_config("clip"), "do_resize": False}, fast=True)
    given, picture = kind(noise(56, 56)), noise(56, 56)
    before = copy.copy(given) if isinstance(given, np.ndarray) else given.clone()
    assert torch.equal(pixels(processor, given), pixels(processor, picture))
    assert bool((before == given).all())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_fast_processor_stays_fast(again: Callable[[Any], Any]) -> None:
    made = again(image_processor(golden_config("clip"), fast=True))
    assert made.backend == "torchvision"
    assert made.to_dict() == image_processor(golden_config("clip")).to_dict()


def test_a_processor_that_resizes_in_its_own_way_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'fast' does not support ConvNextImageProcessor"):
        image_processor({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 56}}, fast=True)


def test_a_filter_without_a_fast_kernel_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'fast' does not support .* PIL filter 1, only 2 \(bilinear\)"):
        image_processor({**golden_config("clip"), "resample": 1}, fast=True)


@pytest.mark.parametrize("name", [PHOTO.name, *SKIMAGE])
def test_tiles(name: str) -> None:
    picture = open_picture(photo(name))
    grids = [[1, 2], [2, 1], [2, 2]]
    for cut in (
        lambda resize: cut_tiles(picture, tile=112, resize=resize),
        lambda resize: cut_anyres(picture, grids, 112, resize),
    ):
        exact, fast = cut(bicubic), cut(fast_resizer())
        assert [tile.size for tile in fast] == [tile.size for tile in exact]
        for a, b in zip(fast, exact, strict=True):
            assert np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() <= 2


def test_tiles_are_resized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 tiles and a thumbnail come of two resizes: of the picture to the whole grid, and to the thumbnail.

    The picture's pixels are read out of PIL once for both.
    """
    tower = build_tower({"weights": str(GOLDEN / "clip"), "preprocess": "fast"})
    calls, read = [], []
    own, own_bytes = torch.nn.functional.interpolate, Image.Image.tobytes
    monkeypatch.setattr(torch.nn.functional, "interpolate", lambda *a, **k: [calls.append(a[1]), own(*a, **k)][1])
    monkeypatch.setattr(Image.Image, "tobytes", lambda self, *a: [read.append(self.size), own_bytes(self, *a)][1])
    made = prepare(tower, ImagesConfig.model_validate({"tiles": {"max": 12}}), noise(400, 300))
    assert len(made.pixels) == 13
    assert calls == [(168, 224), (56, 56)]
    assert read.count((400, 300)) == 1


@pytest.mark.parametrize("size", [{"height": 40, "width": 50}, {"shortest_edge": 30, "longest_edge": 44}, 33])
def test_every_way_to_say_a_size(size: object) -> None:
    config = {**golden_config("clip"), "size": size, "do_center_crop": False}
    exact, fast = image_processor(config), image_processor(config, fast=True)
    assert levels(pixels(fast, noise(90, 60)), pixels(exact, noise(90, 60)), exact) <= 2.001
