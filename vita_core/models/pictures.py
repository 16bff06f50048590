"""Prepare pictures for the tower, as the config's section ``images`` says."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from vita_core.config.schema import ImagesConfig
from vita_core.errors import VitaError
from vita_core.pixels.anyres import cut_anyres
from vita_core.pixels.fused import FusedPixels, FusedProcessor, Pixels, one_batch
from vita_core.pixels.images import MAX_PIXELS, arrange, bicubic, open_picture, pad_to_square
from vita_core.pixels.processors import fast_resizer
from vita_core.pixels.video import Clip, is_still, read_clip
from vita_core.planning.geometry import Grid, needed_grid
from vita_core.planning.videos import refuse_stills
from vita_core.towers.devices import copied
from vita_core.towers.fused import FusedTower
from vita_core.towers.tower import BaseVisionTower

__all__ = ["Picture", "Prepared", "encoded", "grid_of", "prepare", "token_grid"]


@dataclass(frozen=True)
class Prepared:
    """A picture that is prepared for the tower: pixels (tiles, 3, H, W) and its original `size` (width, height).

    A video has pixels (1, frames, 3, H, W). A fused tower gets a `FusedPixels`, which has them for each of its parts.
    """

    pixels: Pixels
    size: tuple[int, int]

    def copied(self, device: torch.device) -> Prepared:
        """Return it with its pixels copied by `vita_core.towers.devices.copied`. Threads that read ahead call this."""
        return Prepared(copied(self.pixels, device), self.size)


Fill = tuple[int, int, int]
"""The colour of a border, 0..255."""
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
    tiles, side = images.tiles, tower.resolved.geometry.input_size[0]
    first = tower.parts[0] if isinstance(tower, FusedTower) else tower
    resize = fast_resizer() if first.settings.preprocess == "fast" else bicubic
    opened = open_picture(picture, max_pixels=images.max_pixels or MAX_PIXELS)
    whole = images.anyres is not None and several and images.anyres.several == "pad"
    if images.anyres is not None and not whole:
        parts = cut_anyres(opened, images.anyres.grids, side, resize)
        return Prepared(_pixels(tower, lambda _: parts), opened.size)

    def arranged(fill: Fill) -> list[Image.Image]:
        return arrange(
            opened,
            aspect="pad" if whole else images.aspect,
            tile=side,
            tiles=(tiles.min, tiles.max, tiles.thumbnail) if tiles else None,
            fill=fill,
            resize=resize,
        )

    return Prepared(_pixels(tower, arranged), opened.size)


def _pixels(tower: BaseVisionTower, framed: Callable[[Fill], list[Image.Image]]) -> Pixels:
    """Return the pixels of the pictures that `framed` returns, whose border has the mean colour of the processor.

    The parts of a fused tower share the pictures if they share that colour.
    """
    processor = tower.image_processor
    several = processor.parts if isinstance(processor, FusedProcessor) else [processor]
    pictures = functools.cache(framed)
    made = []
    for one in several:
        mean = getattr(one, "image_mean", None) or 0
        means = (mean,) * 3 if isinstance(mean, int | float) else mean  # a number is that of each colour
        red, green, blue = (min(255, max(0, int(255 * mean))) for mean in means)
        pixels = one.preprocess(pictures((red, green, blue)), return_tensors="pt")["pixel_values"]
        made.append(pixels if isinstance(pixels, Tensor) else torch.stack(pixels))
    return FusedPixels(made) if isinstance(processor, FusedProcessor) else made[0]


def token_grid(tower: BaseVisionTower, images: ImagesConfig, size: tuple[int, int]) -> Grid:
    """Return the grid of the tokens of a picture, or of each of its tiles, for a picture of `size` (width, height).

    Raises ConfigError if a reduction leaves no grid.
    """
    native = tower.shape.native
    if native is None:
        return needed_grid(tower.grid)
    height, width = (max(size), max(size)) if images.aspect == "pad" else size[::-1]
    return needed_grid(tower.resolved.grid_of(*native.size(height, width)))


def grid_of(tower: BaseVisionTower, pixels: Pixels) -> Grid | None:
    """Return the grid of the tower's tokens of each of the pixels (tiles, 3, H, W) of one size, or None if there is none."""
    return tower.grid if tower.shape.native is None else tower.resolved.grid_of(*pixels.shape[-2:])


def encoded(tower: BaseVisionTower, pictures: Sequence[Pixels]) -> list[Tensor]:
    """Return the tower's features (tiles, N, C) of each of the pixels (tiles, 3, H, W), which go through it in one batch.

    With native resolution, each may have another size, and gets its own N.
    """
    tiles = [len(pixels) for pixels in pictures]
    if tower.shape.native is None:
        return list(tower(one_batch(pictures)).split(tiles))
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
    shown = [open_picture(frame, max_pixels=images.max_pixels or MAX_PIXELS) for frame in clip.frames]
    pads = images.aspect == "pad"
    pixels = _pixels(tower, lambda fill: [pad_to_square(frame, fill) if pads else frame for frame in shown])
    size = shown[0].size
    return Prepared(pixels, (max(size), max(size)) if pads else size)
