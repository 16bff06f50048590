"""Resize pictures without changing their aspect, and cut or pad them around their centre, as torchvision and timm do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["centred", "framed_size"]


def framed_size(picture: Sequence[int], frame: Sequence[int], rule: str) -> tuple[int, int]:
    """Return the (height, width) of a picture that was resized to a frame (height, width) without changing its aspect.

    With the rule ``inside`` it fits into the frame and touches two of its sides; with ``around`` it covers the frame.
    """
    ratios = [have / want for have, want in zip(picture, frame, strict=True)]
    ratio = max(ratios) if rule == "inside" else min(ratios)
    return round(picture[0] / ratio), round(picture[1] / ratio)


def centred(image: Any, size: Sequence[int], color: Sequence[int]) -> Any:
    """Return the centre of `size` (height, width) of an image (..., 3, H, W), an array or a tensor.

    Where the image is smaller, it gets a border of `color` (one value a channel), with the odd pixel at the bottom and on
    the right. Where it is larger, the corner of the cut is rounded to even.
    """
    have = image.shape[-2:]
    if have[0] < size[0] or have[1] < size[1]:
        shape = (*image.shape[:-2], max(have[0], size[0]), max(have[1], size[1]))
        bordered = np.empty(shape, image.dtype) if isinstance(image, np.ndarray) else image.new_empty(shape)
        for channel, value in enumerate(color):
            bordered[..., channel, :, :] = value
        top, left = ((whole - part) // 2 for whole, part in zip(shape[-2:], have, strict=True))
        bordered[..., top : top + have[0], left : left + have[1]] = image
        image = bordered
    top, left = (round((whole - part) / 2) for whole, part in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]
