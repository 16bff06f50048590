"""Prepare pictures for the tower, as the config's section ``images`` says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from vita_core.config.schema import ImagesConfig
from vita_core.errors import VitaError
from vita_core.pixels.anyres import cut_anyres
from vita_core.pixels.images import MAX_PIXELS, arrange, bicubic, open_picture, pad_to_square
from vita_core.pixels.processors import fast_resizer
from vita_core.pixels.video import Clip, is_still, read_clip
from vita_core.planning.geometry import Grid, needed_grid
from vita_core.planning.videos import refuse_stills
from vita_core.towers.devices import copied
from vita_core.towers.tower import BaseVisionTower

__all__ = ["Picture", "Prepared", "encoded", "grid_of", "prepare", "token_grid"]


@dataclass(frozen=True)
class Prepared:
    """A picture that is prepared for the tower: pixels (tiles, 3, H, W) and its original `size` (width, height).

    A video has pixels (1, frames, 3, H, W).
    """

    pixels: Tensor
    size: tuple[int, int]

    def copied(self, device: torch.device) -> Prepared:
        """Return it with its pixels copied by `vita_core.towers.devices.copied`. Threads that read ahead call this."""
        return Prepared(copied(self.pixels, device), self.size)


Picture = str | os.PathLike[str] | Image.Image | Clip | Prepared
"""What a question may be about: for a tower of pictures a picture, for a tower of videos the path of a video or a clip."""


def prepare(tower: BaseVisionTower, images: ImagesConfig, picture: Picture, *, several: bool = False) -> Prepared:
    """Open a picture, pad it or cut it into tiles as `images` says, and return its pixels.

    `several` says that it is one of several pictures in one prompt (see `AnyresConfig.several`). A tower of videos takes a
    video. Raises PictureError, and VitaError for a picture in place of a video or the reverse.
    """
    if isinstance(picture, Prepared):
        return picture
    if tower.shape.frames is not None:
        return _prepared_clip(tower, images, picture, tower.shape.frames)
    if isinstance(picture, Clip):
        raise VitaError(
            f"tower {tower.resolved.spec.name!r} takes pictures, not videos. Try: its frames as pictures, ask(clip.frames)"
        )
    processor, tiles = tower.image_processor, images.tiles
    side = tower.resolved.geometry.input_size[0]
    resize = fast_resizer() if tower.settings.preprocess == "fast" else bicubic
    opened = open_picture(picture, max_pixels=images.max_pixels or MAX_PIXELS)
    whole = images.anyres is not None and several and images.anyres.several == "pad"
    if images.anyres is not None and not whole:
        parts = cut_anyres(opened, images.anyres.grids, side, resize)
    else:
        red, green, blue = (int(255 * mean) for mean in processor.image_mean)
        parts = arrange(
            opened,
            aspect="pad" if whole else images.aspect,
            tile=side,
            tiles=(tiles.min, tiles.max, tiles.thumbnail) if tiles else None,
            fill=(red, green, blue),
            resize=resize,
        )
    pixels = processor.preprocess(parts, return_tensors="pt")["pixel_values"]
    return Prepared(pixels if isinstance(pixels, Tensor) else torch.stack(pixels), opened.size)


def token_grid(tower: BaseVisionTower, images: ImagesConfig, size: tuple[int, int]) -> Grid:
    """Return the grid of the tokens of a picture, or of each of its tiles, for a picture of `size` (width, height).

    Raises ConfigError if a reduction leaves no grid.
    """
    native = tower.shape.native
    if native is None:
        return needed_grid(tower.grid)
    height, width = (max(size), max(size)) if images.aspect == "pad" else size[::-1]
    return needed_grid(tower.resolved.grid_of(*native.size(height, width)))


def grid_of(tower: BaseVisionTower, pixels: Tensor) -> Grid | None:
    """Return the grid of the tower's tokens of each of the pixels (tiles, 3, H, W) of one size, or None if there is none."""
    return tower.grid if tower.shape.native is None else tower.resolved.grid_of(*pixels.shape[-2:])


def encoded(tower: BaseVisionTower, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Return the tower's features (tiles, N, C) of each of the pixels (tiles, 3, H, W), which go through it in one batch.

    With native resolution, each may have another size, and gets its own N.
    """
    tiles = [len(pixels) for pixels in pictures]
    if tower.shape.native is None:
        return list(tower(torch.cat([*pictures])).split(tiles))
    features = iter(tower([tile for pixels in pictures for tile in pixels]))
    return [torch.cat([next(features) for _ in range(count)]) for count in tiles]


def _prepared_clip(
    tower: BaseVisionTower, images: ImagesConfig, video: str | os.PathLike[str] | Image.Image | Clip, frames: int
) -> Prepared:
    if isinstance(video, Image.Image) or (not isinstance(video, Clip) and is_still(video)):
        name = "a PIL picture" if isinstance(video, Image.Image) else os.fspath(video)
        refuse_stills(tower.resolved, f"{name}: it is a still picture")
    clip = video if isinstance(video, Clip) else read_clip(cast("str | os.PathLike[str]", video), frames)
    if len(clip.frames) != frames:
        raise VitaError(
            f"a clip has {len(clip.frames)} frames, but tower {tower.resolved.spec.name!r} takes {frames}. "
            f"Try: read_clip(path, {frames})"
        )
    processor = tower.image_processor
    red, green, blue = (int(255 * mean) for mean in processor.image_mean)
    shown = [open_picture(frame, max_pixels=images.max_pixels or MAX_PIXELS) for frame in clip.frames]
    if images.aspect == "pad":
        shown = [pad_to_square(frame, (red, green, blue)) for frame in shown]
    return Prepared(processor.preprocess(shown, return_tensors="pt")["pixel_values"], shown[0].size)
