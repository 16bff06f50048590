"""Prepare pictures for the tower, as the config's section ``images`` says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vita_core.config.schema import ImagesConfig
from vita_core.pixels.anyres import cut_anyres
from vita_core.pixels.images import MAX_PIXELS, arrange, bicubic, open_picture
from vita_core.pixels.processors import fast_resizer
from vita_core.towers.devices import copied
from vita_core.towers.tower import BaseVisionTower

__all__ = ["Picture", "Prepared", "encoded", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A picture that is prepared for the tower: pixels (tiles, 3, H, W) and its original `size` (width, height)."""

    pixels: Tensor
    size: tuple[int, int]

    def copied(self, device: torch.device) -> Prepared:
        """Return it with its pixels copied by `vita_core.towers.devices.copied`. Threads that read ahead call this."""
        return Prepared(copied(self.pixels, device), self.size)


Picture = str | os.PathLike[str] | Image.Image | Prepared


def prepare(tower: BaseVisionTower, images: ImagesConfig, picture: Picture) -> Prepared:
    """Open a picture, pad it or cut it into tiles as `images` says, and return its pixels. Raises PictureError."""
    if isinstance(picture, Prepared):
        return picture
    processor, tiles = tower.image_processor, images.tiles
    side = tower.resolved.geometry.input_size[0]
    resize = fast_resizer() if tower.settings.preprocess == "fast" else bicubic
    opened = open_picture(picture, max_pixels=images.max_pixels or MAX_PIXELS)
    if images.anyres is not None:
        parts = cut_anyres(opened, images.anyres.grids, side, resize)
    else:
        red, green, blue = (int(255 * mean) for mean in processor.image_mean)
        parts = arrange(
            opened,
            aspect=images.aspect,
            tile=side,
            tiles=(tiles.min, tiles.max, tiles.thumbnail) if tiles else None,
            fill=(red, green, blue),
            resize=resize,
        )
    pixels = processor.preprocess(parts, return_tensors="pt")["pixel_values"]
    return Prepared(pixels if isinstance(pixels, Tensor) else torch.stack(pixels), opened.size)


def encoded(tower: BaseVisionTower, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Return the tower's features (tiles, N, C) of each of the pixels (tiles, 3, H, W), which go through it in one batch.

    With native resolution, each may have another size, and gets its own N.
    """
    tiles = [len(pixels) for pixels in pictures]
    if tower.shape.native is None:
        return list(tower(torch.cat([*pictures])).split(tiles))
    features = iter(tower([tile for pixels in pictures for tile in pixels]))
    return [torch.cat([next(features) for _ in range(count)]) for count in tiles]
