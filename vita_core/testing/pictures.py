"""The contracts of the image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vita_core.testing.kit import holds
from vita_core.testing.outcomes import SkippedCheckError, expect
from vita_core.testing.subject import Subject

MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "LA", "I;16")
SIZES = ((64, 48), (40, 72))
PROCESSOR_REMEDY = (
    "Let the spec's processor function return the preprocessing that the checkpoint was trained with, with sides from the "
    "Shape, and use image_processor of BaseVisionTower."
)


@holds(PROCESSOR_REMEDY)
def processor_gives_the_towers_pixels(subject: Subject) -> None:
    """image_processor.preprocess turns pictures of any mode and size into float32 pixels of the tower's size and form."""
    subject.one_encoder()
    *leading, _, _ = subject.resolved().shape.pixels
    size, native = (*leading, *subject.resolved().geometry.input_size), subject.resolved().shape.native
    pictures = {f"{mode} {size[0]} x {size[1]}": Image.new(mode, size) for mode in MODES for size in SIZES}
    for what, picture in pictures.items():
        pixels = _prepared(subject, [picture])
        if native is not None:
            size = (3, *native.size(picture.height, picture.width))
        told = f"a picture {what} gave pixels {tuple(pixels.shape)}, but the tower takes {(1, *size)}"
        expect(tuple(pixels.shape) == (1, *size), told)
        expect(pixels.dtype == torch.float32, f"a picture {what} gave {pixels.dtype} pixels")
        expect(bool(pixels.isfinite().all()), f"a picture {what} gave pixels that are not finite")
    first, second, *_ = pictures.values()
    if native is not None:
        listed = subject.tower.image_processor.preprocess([first, second], return_tensors="pt")["pixel_values"]
        expect(isinstance(listed, list), f"two pictures gave a {type(listed).__name__}, not a list")
        return
    together = _prepared(subject, [first, second])
    expect(tuple(together.shape) == (2, *size), f"two pictures gave pixels {tuple(together.shape)}")


def _prepared(subject: Subject, pictures: Sequence[Image.Image]) -> Tensor:
    """Return the pixels of pictures, or of videos that show each picture in all frames."""
    frames = subject.resolved().shape.frames
    given: Sequence[Any] = pictures if frames is None else [[picture] * frames for picture in pictures]
    processed = subject.tower.image_processor.preprocess(given[0] if len(given) == 1 else given, return_tensors="pt")
    pixels = processed["pixel_values"]
    return pixels if isinstance(pixels, Tensor) else torch.stack(pixels)


@holds(PROCESSOR_REMEDY)
def processor_normalises_as_stated(subject: Subject) -> None:
    """A picture of one colour becomes (value / 255 - image_mean) / image_std of the processor's config in each channel."""
    subject.one_encoder()
    stated = subject.resolved().processor
    if not {"image_mean", "image_std"} <= stated.keys() or stated.get("do_normalize") is False:
        raise SkippedCheckError("the processor's config has no image_mean and image_std")
    mean, std = torch.tensor(stated["image_mean"]), torch.tensor(stated["image_std"])
    scale = stated.get("rescale_factor", 1 / 255) if stated.get("do_rescale", True) else 1.0
    # ViViT's processors subtract 1 from the rescaled values
    offset = 1 if stated.get("offset", stated.get("video_processor_type") == "VivitVideoProcessor") else 0
    for colour in ((0, 0, 0), (255, 255, 255), (200, 100, 50)):
        picture = Image.new("RGB", (64, 64), colour)
        pixels = _prepared(subject, [picture])
        expected = (torch.tensor(colour) * scale - offset - mean) / std
        found = pixels.flatten(0, -4).mean(dim=(0, 2, 3))
        told = f"colour {colour} became {found.tolist()}, but the processor's config says {expected.tolist()}"
        expect(torch.allclose(pixels, expected.view(3, 1, 1).expand_as(pixels), atol=1e-4), told)
