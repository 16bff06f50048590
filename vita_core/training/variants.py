"""Make altered copies of a picture, so that a projector learns what it shows and not how sharp it is."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageFilter

__all__ = ["varied"]

SMALL = 64
"""The side of the smallest thumbnails, in pixels."""


def varied(picture: Image.Image, rng: random.Random, side: int) -> Image.Image:
    """Return a random crop of `picture`, resized to `side` pixels; some are also shrunk and compressed, sharpened or blurred.

    Stronger changes give worse results. What makes names learned from small photos work on sharp ones is
    `training.moment_jitter`.
    """
    width, height = picture.size
    scale, stretch = rng.uniform(0.5, 1.0) ** 0.5, rng.uniform(0.87, 1.15)
    crop_width, crop_height = min(width, width * scale * stretch), min(height, height * scale / stretch)
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    if min(width, height) > SMALL and rng.random() < 0.3:  # imitate a thumbnail
        small = SMALL if rng.random() < 0.5 else rng.randint(SMALL, max(SMALL, min(176, width, height)))
        picture = _compressed(picture.resize((small, small), Image.Resampling.BILINEAR, box=box), rng.randint(40, 95))
        box = (0, 0, small, small)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    fate = rng.random()
    if fate < 0.1:
        picture = picture.filter(ImageFilter.UnsharpMask(rng.uniform(1.5, 4), rng.randint(60, 250), 0))
    elif fate < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
