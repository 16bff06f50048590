"""One picture made into what the tower takes, as the ``images:`` section says."""

from __future__ import annotations

import os

from PIL import Image
from torch import Tensor

from vita_core.anyres import cut_anyres
from vita_core.config import ImagesConfig
from vita_core.images import MAX_PIXELS, arrange, open_picture
from vita_core.tower import BaseVisionTower

__all__ = ["Picture", "picture_pixels"]

Picture = str | os.PathLike[str] | Image.Image


def picture_pixels(tower: BaseVisionTower, images: ImagesConfig, picture: Picture) -> Tensor:
    """One picture, opened and arranged as `images` says: (tiles, 3, H, W)."""
    processor, tiles = tower.image_processor, images.tiles
    side = tower.resolved.geometry.input_size[0]
    opened = open_picture(picture, max_pixels=images.max_pixels or MAX_PIXELS)
    if images.anyres is not None:
        parts = cut_anyres(opened, images.anyres.grids, side)
    else:
        red, green, blue = (int(255 * mean) for mean in processor.image_mean)
        parts = arrange(
            opened,
            aspect=images.aspect,
            tile=side,
            tiles=(tiles.min, tiles.max, tiles.thumbnail) if tiles else None,
            fill=(red, green, blue),
        )
    pixels: Tensor = processor.preprocess(parts, return_tensors="pt")["pixel_values"]
    return pixels
