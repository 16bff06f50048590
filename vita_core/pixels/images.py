"""Open pictures as upright RGB, pad them, and cut them into tiles. `processors` turns the result into pixel values."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from vita_core.errors import PictureError, nearest
from vita_core.planning.tiling import tile_grid
from vita_core.plugins.native import MAX_ASPECT

__all__ = [
    "MAX_PIXELS",
    "Resize",
    "arrange",
    "bicubic",
    "check_file",
    "cut_tiles",
    "open_picture",
    "pad_to_square",
    "to_rgb",
]

PictureSource = str | os.PathLike[str] | Image.Image | BinaryIO
Resize = Callable[[Image.Image, tuple[int, int]], Image.Image]
"""A function that resizes a picture to a size (width, height)."""

MAX_PIXELS = 100_000_000
"""The most pixels a picture may have: twice those of a good camera, 400 MB when decoded (PIL uses 4 bytes per pixel).
A PNG of a few bytes can claim far more, so the size in the header is checked first."""

_strict_lock = threading.Lock()
_strict_users = 0
_strict_saved: tuple[int | None, bool] = (None, False)


class _HardLimit(int):
    """A `MAX_IMAGE_PIXELS` that equals its own double. PIL warns above the value and raises above its double: here it raises."""

    def __rmul__(self, factor: int, /) -> int:
        return int(self)


def open_picture(source: PictureSource, *, max_pixels: int = MAX_PIXELS, name: str = "the picture") -> Image.Image:
    """Return the picture as upright 8-bit RGB.

    `source` is a path, an open binary file, which messages call `name`, or a PIL picture. A PIL picture is not changed; if it
    is upright RGB already, it is returned itself.
    EXIF orientation is applied, and transparent pixels are drawn over white. 16-bit values are scaled by their bit depth.
    The modes I and F have no bit depth: they are scaled from the smallest of the ranges [0, 1] (F only), [0, 255] and
    [0, 65535] that contains all values, or else from their minimum and maximum. An animated file gives its first frame,
    an animated PIL picture its current frame. Colour profiles are not applied; the towers were trained without them. Raises
    `PictureError` if the file is missing, damaged, cut short or not a picture, and if the picture has more than `max_pixels`
    pixels, fewer than 2 pixels on a side, or a side over 200 times as long as the other.
    """
    file: Any = source if hasattr(source, "read") or isinstance(source, Image.Image) else check_file(cast(Any, source))
    name = str(file if isinstance(file, Path) else getattr(file, "filename", "") or name)
    try:
        with _strict_pil(max_pixels):
            if isinstance(file, Image.Image):
                return _decode(file, name, max_pixels)
            with Image.open(file) as picture:
                return _decode(picture, name, max_pixels)
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = "not a picture that PIL can read, or cut short. Try: download it again, or convert it to PNG or JPEG"
    except Image.DecompressionBombError:
        reason = f"more than {max_pixels:,} pixels. Try: resize the picture, or raise `images.max_pixels` if you trust the file"
    except PermissionError:
        reason = "no permission to read the file. Try: change its permissions"
    except Exception as error:  # PIL's decoders raise many types on damaged files: SyntaxError, struct.error, ...
        reason = f"damaged or cut short: {error}. Try: download it again, or save it with a program that can open it"
    raise PictureError(f"{name}: {reason}")


def check_file(source: str | os.PathLike[str]) -> Path:
    """Return the path of a picture file. Raises `PictureError` if it does not exist or is empty. The file is not read."""
    try:
        path = Path(source).expanduser()
        size = path.stat().st_size if path.is_file() else 0
        if not path.exists():
            names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else None
            what = "its folder does not exist." if names is None else f"no such file.{nearest(path.name, names)}"
            reason = f"{what} Try: check the path"
        elif path.is_dir():
            reason = "a directory, not a picture. Try: the path of one picture in it"
        elif not path.is_file():
            reason = "a device or a pipe, not a file. Try: save the picture to a file first"
        elif not size:
            reason = "the file is empty (0 bytes). Try: copy or download it again"
        else:
            return path
    except TypeError:
        reason = f"not a path or a PIL picture: {type(source).__name__}. Try: PIL.Image.fromarray(array)"
        raise PictureError(reason) from None
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, an unknown user's home, a null byte
        raise PictureError(f"{source!r}: not a usable path: {error}. Try: check the path") from None
    raise PictureError(f"{path}: {reason}")


@contextmanager
def _strict_pil(max_pixels: int) -> Iterator[None]:
    """Make PIL raise for pictures that are too large or cut short, whatever other code has set.

    Both settings are globals of PIL. The first thread that enters sets them, the last one that leaves restores them. The
    limit is for pictures inside pictures (an .ico file). It is twice `max_pixels`, so that `_decode` reports the size first.
    """
    global _strict_users, _strict_saved
    with _strict_lock:
        if not _strict_users:
            _strict_saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = _HardLimit(0), False
        Image.MAX_IMAGE_PIXELS = _HardLimit(max(Image.MAX_IMAGE_PIXELS or 0, 2 * max_pixels))
        _strict_users += 1
    try:
        yield
    finally:
        with _strict_lock:
            _strict_users -= 1
            if not _strict_users:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = _strict_saved


def _decode(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    for step in ("header", "pixels"):  # check twice: the header of an .ico file may state a wrong size
        if step == "pixels":
            picture.load()
        (width, height), short = picture.size, min(picture.size)
        if width * height > max_pixels:
            what = f"more than {max_pixels:,} pixels"
            todo = f"resize it, or `--set images.max_pixels={width * height}` if you trust the file"
        elif short < 2:
            what, todo = "a side under 2 pixels", "a larger picture"
        elif max(width, height) > MAX_ASPECT * short:
            what, todo = f"an aspect ratio above {MAX_ASPECT}:1", "crop it into shorter pieces"
        else:
            continue
        raise PictureError(f"{name}: the picture is {width} x {height}, {what}. Try: {todo}")
    return to_rgb(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture of any mode as upright RGB. `open_picture` describes how."""
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright: Image.Image = ImageOps.exif_transpose(picture) if turned else picture  # it copies upright pictures too
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        tags = getattr(picture, "tag_v2", {})  # TIFF: 258 is bits per sample, 262 = 0 "min is white" (PIL ignores it)
        levels = _eight_bit(upright, int(tags.get(258, (16,))[0]))
        return Image.fromarray(255 - levels if tags.get(262) == 0 else levels).convert("RGB")
    if upright.mode == "La":
        upright = upright.convert("LA")  # PIL cannot convert La to RGBA directly
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _eight_bit(picture: Image.Image, bits: int) -> NDArray[np.uint8]:
    """Return the values (H, W) of a one-channel picture of over 8 bits, scaled to 0..255. `Image.convert` would clip them."""
    values = np.asarray(picture).astype(np.float64)
    finite = np.isfinite(values)
    low, high = float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))
    ranges = [2.0**bits - 1] if picture.mode.startswith("I;16") else [255.0, 65535.0]
    if picture.mode == "F":
        ranges.insert(0, 1.0)
    top = next((top for top in ranges if high <= top and low >= 0), None)
    start, span = (low, high - low) if top is None else (0.0, top)
    scaled = np.nan_to_num((values - start) / (span or 1.0) * 255, nan=0.0, posinf=255.0, neginf=0.0)
    hidden = picture.info.get("transparency")
    if isinstance(hidden, int):
        scaled[values == hidden] = 255
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def pad_to_square(picture: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Return `picture` centred on a square as wide as its longer side, as LLaVA does for `image_aspect_ratio: pad`.

    `fill` (0..255) is the colour of the border: `tuple(int(255 * m) for m in image_mean)` with the processor's mean makes
    it about 0 in pixel values. Raises `PictureError` if the square would have more than `MAX_PIXELS` pixels.
    """
    width, height = picture.size
    side = max(width, height)
    if side * side > MAX_PIXELS:
        limit = math.isqrt(MAX_PIXELS)
        raise PictureError(
            f"images.aspect: a picture of {width} x {height} is too large to be padded to a square. "
            f"Try: resize its longer side to {limit} or less"
        )
    square = Image.new("RGB", (side, side), fill)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def bicubic(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return `picture` resized to `size` (width, height) by PIL's bicubic filter, which the towers were trained with."""
    return picture.resize(size, Image.Resampling.BICUBIC)


def cut_tiles(
    picture: Image.Image,
    *,
    tile: int,
    max_tiles: int = 12,
    min_tiles: int = 1,
    thumbnail: bool = True,
    resize: Resize = bicubic,
) -> list[Image.Image]:
    """Return InternVL's tiles (arXiv 2404.16821): `picture` resized to its grid, cut row by row into `tile` x `tile` pixels.

    With `thumbnail`, the whole picture resized to one tile comes last, unless the grid is a single tile.
    `vita_core.planning.tiling.count_tiles` returns the number of tiles. Raises `ConfigError` for impossible bounds.
    """
    cols, rows = tile_grid(*picture.size, tile=tile, min_tiles=min_tiles, max_tiles=max_tiles)
    resized = resize(picture, (cols * tile, rows * tile))
    corners = [(col * tile, row * tile) for row in range(rows) for col in range(cols)]
    tiles = [resized.crop((left, top, left + tile, top + tile)) for left, top in corners]
    if thumbnail and len(tiles) > 1:
        tiles.append(resize(picture, (tile, tile)))
    return tiles


def arrange(
    picture: Image.Image,
    *,
    aspect: Literal["square", "pad"],
    tile: int,
    tiles: tuple[int, int, bool] | None,
    fill: tuple[int, int, int],
    resize: Resize = bicubic,
) -> list[Image.Image]:
    """Return the pictures that the tower sees for one input picture. The processor resizes each of them afterwards.

    With `tiles`, `(min_tiles, max_tiles, thumbnail)`, they are square tiles, and `aspect` has no effect. Without, the aspect
    `"pad"` gives the picture padded to a square with the colour `fill` (0..255), and `"square"` the picture unchanged.
    """
    if tiles is not None:
        least, most, thumbnail = tiles
        return cut_tiles(picture, tile=tile, min_tiles=least, max_tiles=most, thumbnail=thumbnail, resize=resize)
    return [pad_to_square(picture, fill) if aspect == "pad" else picture]
