"""The pixels of pictures for several encoders: like a tensor, and one decoded picture for all of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from vita_core.errors import VitaError
from vita_core.pixels.fused import FusedPixels, FusedProcessor
from vita_core.pixels.processors import image_processor


def values(*shape: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape)


@pytest.fixture
def pixels() -> FusedPixels:
    """Three pictures for two encoders of 4 and 8 pixels."""
    return FusedPixels([values(3, 3, 4, 4), -values(3, 3, 8, 8)])


@pytest.fixture
def uneven() -> FusedPixels:
    """Three pictures for an encoder of native resolution, and for one of 8 pixels."""
    return FusedPixels([[values(3, 4, 4), values(3, 6, 4), 2 * values(3, 4, 4)], -values(3, 3, 8, 8)])


def equal(found: FusedPixels, expected: list[Any]) -> None:
    assert len(found.parts) == len(expected)
    for part, wanted in zip(found.parts, expected, strict=True):
        assert isinstance(part, list) == isinstance(wanted, list)
        for one, other in zip(part, wanted, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("index", [0, -1, slice(1, None), slice(0, 0), [2, 0], torch.tensor([True, False, True])])
def test_it_is_indexed_like_a_tensor(pixels: FusedPixels, index: Any) -> None:
    equal(pixels[index], [part[index] for part in pixels.parts])
    assert pixels[index].shape == pixels.parts[0][index].shape


def test_pictures_of_different_sizes_are_a_list(uneven: FusedPixels) -> None:
    small, tall, bright = uneven.parts[0]
    (shown,) = uneven.parts[1:]
    equal(uneven[1], [tall, shown[1]])
    equal(uneven[1:], [[tall, bright], shown[1:]])
    equal(uneven[[1, 0]], [[tall, small], shown[[1, 0]]])
    equal(uneven[torch.tensor([True, True, False])], [[small, tall], shown[:2]])
    equal(uneven[[0, 2]], [torch.stack([small, bright]), shown[[0, 2]]])  # of one size again
    equal(torch.stack([uneven[2], uneven[0]]), [torch.stack([bright, small]), shown[[2, 0]]])
    equal(torch.cat([uneven, uneven[:1]]), [[small, tall, bright, small], torch.cat([shown, shown[:1]])])
    equal(uneven.split([1, 2])[1], [[tall, bright], shown[1:]])
    assert (len(uneven), uneven.ndim, len(uneven[:0])) == (3, 4, 0)
    with pytest.raises(VitaError, match=r"no common shape. Try: the shape of one picture, pixels\[0\]"):
        _ = uneven.shape
    with pytest.raises(VitaError, match="indexed by one dimension"):
        _ = uneven[torch.tensor([[0, 1]])]


def test_it_joins_and_splits_like_tensors(pixels: FusedPixels) -> None:
    first, second = pixels.parts
    equal(torch.cat([pixels, pixels[:1]]), [torch.cat([first, first[:1]]), torch.cat([second, second[:1]])])
    equal(torch.stack([*pixels]), [first, second])
    for groups in (pixels.split(2), torch.split(pixels, 2), pixels.split([2, 1])):
        equal(groups[0], [first[:2], second[:2]])
        equal(groups[1], [first[2:], second[2:]])
    equal(pixels[0].unsqueeze(0), [first[:1], second[:1]])
    equal(pixels[0][None], [first[:1], second[:1]])
    with pytest.raises(VitaError, match=r"torch.relu is not defined here .* Try: pixels.map\(function\)"):
        torch.relu(pixels)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(VitaError, match=r"torch.cat is not defined"):
        torch.cat([pixels, pixels], dim=1)  # type: ignore[list-item]  # FusedPixels, by __torch_function__
    with pytest.raises(VitaError, match=r"pixels are for different numbers of encoders"):
        torch.cat([pixels, FusedPixels([first])])  # type: ignore[list-item]  # as above
    with pytest.raises(VitaError, match=r"split by dimension 0, not by 1"):
        pixels.split(1, dim=1)


@pytest.mark.parametrize("kind", ["pixels", "uneven"])
def test_it_moves_converts_and_copies(kind: str, request: pytest.FixtureRequest) -> None:
    made: FusedPixels = request.getfixturevalue(kind)
    half = made.to(torch.float16)
    assert (half.dtype, made.dtype, made.device) == (torch.float16, torch.float32, torch.device("cpu"))
    assert made.to(device="meta").device.type == "meta"
    for copied in (made.clone(), made.cpu(), pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        equal(copied, [*made.parts])
    assert not made.is_pinned()
    assert "FusedPixels(" in repr(made)


def test_a_data_loader_makes_batches(pixels: FusedPixels) -> None:
    batches = [*DataLoader([*pixels], batch_size=2)]  # type: ignore[arg-type]  # a sequence is enough for a DataLoader
    equal(batches[0], [part[:2] for part in pixels.parts])
    equal(batches[1], [part[2:] for part in pixels.parts])
    rows = [{"pixels": picture, "label": place} for place, picture in enumerate(pixels)]
    equal(next(iter(DataLoader(rows, batch_size=3)))["pixels"], [*pixels.parts])  # type: ignore[arg-type]  # as above


@pytest.mark.slow
def test_pictures_come_from_the_processes_of_a_data_loader(pixels: FusedPixels) -> None:
    batch = next(iter(DataLoader([*pixels], batch_size=3, num_workers=1)))  # type: ignore[arg-type]  # as above
    equal(batch, [*pixels.parts])


def test_a_batch_pins_like_a_tensor(pixels: FusedPixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DataLoader pins what has a method pin_memory; without an accelerator, torch's own would fail."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned: list[torch.Size] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, *_: pinned.append(self.shape) or self)
    equal(pin_memory({"pixels": pixels})["pixels"], [*pixels.parts])
    assert pinned == [part.shape for part in pixels.parts if isinstance(part, Tensor)]


def test_each_part_has_as_many_pictures() -> None:
    with pytest.raises(VitaError, match=r"another number of pictures for each part: \[2, 1\]. Try: prepare"):
        FusedPixels([values(2, 3, 4, 4), values(1, 3, 4, 4)])


CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28}, "crop_size": 28}
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 56, "width": 56}}


def test_every_part_gets_the_pixels_of_its_own_processor(golden: Path) -> None:
    processor = FusedProcessor([image_processor(CLIP), image_processor(SIGLIP)])
    with Image.open(golden / "pictures" / "wide.png") as opened:
        picture = opened.convert("RGB")
    made = processor.preprocess([picture, picture.rotate(90)], return_tensors="pt")["pixel_values"]
    own = [
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28),
        SiglipImageProcessorPil(size={"height": 56, "width": 56}),
    ]
    equal(made, [one.preprocess([picture, picture.rotate(90)], return_tensors="pt")["pixel_values"] for one in own])
    equal(processor(picture)["pixel_values"], [part[:1] for part in made.parts])
    assert processor.image_mean == own[0].image_mean
    again = pickle.loads(pickle.dumps(processor))
    assert again.to_dict() == processor.to_dict()
    kinds = [part["image_processor_type"] for part in processor.to_dict()["parts"]]
    assert kinds == ["CLIPImageProcessor", "SiglipImageProcessor"]


def test_a_picture_is_decoded_once_for_all_parts(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = FusedProcessor([image_processor(CLIP), image_processor(SIGLIP)])
    opened = Image.open(golden / "pictures" / "wide.png").convert("L")
    converted: list[str] = []
    convert = Image.Image.convert

    def counted(self: Image.Image, mode: str | None = None, **options: Any) -> Image.Image:
        converted.append(self.mode)
        return convert(self, mode, **options)

    monkeypatch.setattr(Image.Image, "convert", counted)
    processor.preprocess(opened, return_tensors="pt")
    assert converted.count("L") == 1
