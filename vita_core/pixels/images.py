"""Pictures: opened as upright RGB, padded or tiled. `processors` makes pixel values of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from vita_core.errors import PictureError, nearest
from vita_core.pixels.tiling import tile_grid

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

Resize = Callable[[Image.Image, tuple[int, int]], Image.Image]
"""A picture and the size (width, height) that it is brought to."""

MAX_PIXELS = 100_000_000
"""Largest picture that is decoded: 400 MB as RGB in memory (PIL spends 4 bytes a pixel), twice what a common good
camera gives. A few bytes of PNG can claim far more than that, so the size is read from the header and checked first."""

_MAX_ASPECT = 200
_strict_lock = threading.Lock()
_strict_users = 0
_strict_saved: tuple[int | None, bool] = (None, False)


class _HardLimit(int):
    """A `MAX_IMAGE_PIXELS` whose double is itself: PIL then raises above it, and never warns between it and double."""

    def __rmul__(self, factor: int, /) -> int:
        return int(self)


def open_picture(source: str | os.PathLike[str] | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture as upright 8-bit RGB: `source` is a path, or a PIL picture, which is left as it is (and returned itself
    where it is upright RGB).

    EXIF orientation is applied and transparency is laid over white. 16-bit values are scaled from their bit depth;
    modes I and F, which have none, from the smallest of [0, 1] (F only), [0, 255] and [0, 65535] that holds all their
    values, else from their minimum and maximum. Of an animated file the first frame is taken, of an animated PIL
    picture the current one. Colour profiles are not applied, as in the towers' own training.

    Raises `PictureError` for what is missing, no picture, damaged or cut short, above `max_pixels` (see `MAX_PIXELS`),
    under 2 pixels on a side, or longer than 200:1.
    """
    file = source if isinstance(source, Image.Image) else check_file(source)
    name = str(getattr(file, "filename", "") or "the picture") if isinstance(file, Image.Image) else str(file)
    try:
        with _strict_pil(max_pixels):
            if isinstance(file, Image.Image):
                return _decode(file, name, max_pixels)
            with Image.open(file) as picture:
                return _decode(picture, name, max_pixels)
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = "is not a picture that PIL can read, or is cut short. Get it again, or convert it to PNG or JPEG."
    except Image.DecompressionBombError:
        reason = f"has more than {max_pixels:,} pixels. Resize it first, or raise max_pixels if you trust it."
    except PermissionError:
        reason = "may not be read. Check its permissions."
    except Exception as error:  # PIL's decoders raise many types on damaged files: SyntaxError, struct.error, ...
        reason = f"is damaged or cut short ({error}). Get the file again, or save it anew with a program that opens it."
    raise PictureError(f"{name}: {reason}")


def check_file(source: str | os.PathLike[str]) -> Path:
    """The path of a file that exists and is not empty; nothing is read. Raises `PictureError`."""
    try:
        path = Path(source).expanduser()
        size = path.stat().st_size if path.is_file() else 0
        if not path.exists():
            names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else None
            what = "its folder does not exist." if names is None else f"no such file.{nearest(path.name, names)}"
            reason = f"{what} Check the path."
        elif path.is_dir():
            reason = "is a directory. Name one picture in it."
        elif not path.is_file():
            reason = "is a device or a pipe. Save the picture to a file first."
        elif not size:
            reason = "is empty (0 bytes). Copy or download it again."
        else:
            return path
    except TypeError:
        reason = f"a picture is a path or a PIL picture, not {type(source).__name__}. See PIL.Image.fromarray."
        raise PictureError(reason) from None
    except (OSError, RuntimeError, ValueError) as error:  # too long; the home of nobody; a null byte
        raise PictureError(f"{source!r}: cannot be looked up ({error}). Check the path.") from None
    raise PictureError(f"{path}: {reason}")


@contextmanager
def _strict_pil(max_pixels: int) -> Iterator[None]:
    """PIL without its bomb warning and without half-decoding, whatever other code has set.

    Both are globals of PIL: the first thread in sets them, the last one out restores them, and nobody waits.
    The limit is a second line, for pictures inside pictures (an .ico); twice ours, so that ours can name the size.
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
    for step in ("header", "pixels"):  # twice: the header of an .ico may state another size than its pixels have
        if step == "pixels":
            picture.load()
        (width, height), short = picture.size, min(picture.size)
        if width * height > max_pixels:
            what, todo = f"more than {max_pixels:,} pixels", "Resize it first, or raise max_pixels if you trust it."
        elif short < 2:
            what, todo = "a side under 2 pixels: nothing to see", "Give a larger picture."
        elif max(width, height) > _MAX_ASPECT * short:
            what, todo = f"longer than {_MAX_ASPECT}:1", "Crop it into shorter pieces."
        else:
            continue
        raise PictureError(f"{name}: is {width} x {height}, {what}. {todo}")
    return to_rgb(picture)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to upright RGB, as `open_picture` promises."""
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright: Image.Image = ImageOps.exif_transpose(picture) if turned else picture  # it copies what stands upright too
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        tags = getattr(picture, "tag_v2", {})  # TIFF: 258 bits per sample, 262 = 0 "min is white", which PIL ignores
        levels = _eight_bit(upright, int(tags.get(258, (16,))[0]))
        return Image.fromarray(255 - levels if tags.get(262) == 0 else levels).convert("RGB")
    if upright.mode == "La":
        upright = upright.convert("LA")  # PIL has no way from La to RGBA
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _eight_bit(picture: Image.Image, bits: int) -> NDArray[np.uint8]:
    """Values of a deep one-channel picture, `(H, W)`, scaled to 0..255 where `Image.convert` would clip them."""
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
    """`picture` centred on a square of its longer side, coloured `fill` (0..255): LLaVA's `image_aspect_ratio: pad`.

    `fill` is the processor's mean, `tuple(int(255 * m) for m in image_mean)`, so that the border is about 0 in
    pixel values. Raises `PictureError` where the square would have more than `MAX_PIXELS`.
    """
    width, height = picture.size
    side = max(width, height)
    if side * side > MAX_PIXELS:
        limit = math.isqrt(MAX_PIXELS)
        raise PictureError(f"cannot pad {width} x {height} to a square: resize its longer side to {limit} or less.")
    square = Image.new("RGB", (side, side), fill)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def bicubic(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture` resized by PIL, as the towers' training did."""
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
    """InternVL's tiles (arXiv 2404.16821): `picture` resized to its grid and cut row by row, `tile` x `tile` each.

    With `thumbnail`, the whole picture squashed to one tile comes last, unless there is only one tile anyway.
    `vita_core.pixels.tiling.count_tiles` says how many there will be. Raises `ConfigError` for impossible bounds.
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
    """The pictures that the tower sees for one input picture; the processor resizes each of them afterwards.

    `tiles` is `(min_tiles, max_tiles, thumbnail)` and goes before `aspect`: a tile is square already. Otherwise
    `"pad"` gives the padded square (`fill`: its border, 0..255), `"square"` the picture as it is.
    """
    if tiles is not None:
        least, most, thumbnail = tiles
        return cut_tiles(picture, tile=tile, min_tiles=least, max_tiles=most, thumbnail=thumbnail, resize=resize)
    return [pad_to_square(picture, fill) if aspect == "pad" else picture]
