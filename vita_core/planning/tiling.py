"""Tiles: into how many a picture is cut, and how many tokens of them the language model gets.

It uses the standard library only, so that `vita plan` can count tokens without torch. The rule of ``images.tiles`` is that
of InternVL 1.5 (arXiv 2404.16821, section 3.2): among all grids with an allowed number of tiles, take the one whose aspect
ratio is closest to the picture's. The rules of ``images.anyres`` are those of LLaVA-1.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from vita_core.config.images import AnyresConfig, ImagesConfig
from vita_core.errors import ConfigError, PictureError

__all__ = ["best_grid", "count_tiles", "most_tokens", "shrunk", "tile_grid", "tiles_and_tokens", "unpadded"]


def tile_grid(width: int, height: int, *, tile: int, min_tiles: int = 1, max_tiles: int = 12) -> tuple[int, int]:
    """Return the grid `(cols, rows)` into which a picture of `width` x `height` pixels is cut.

    `tile` is the side of a square tile in pixels. `min_tiles` and `max_tiles` are the bounds of `cols * rows`. If two
    grids are equally close to the picture's aspect ratio, the grid with more tiles is taken if the picture has more than
    half as many pixels as that grid.

    Raises `ConfigError` for impossible bounds, and `PictureError` for a side of less than one pixel.
    """
    if tile < 1 or not 1 <= min_tiles <= max_tiles:
        raise ConfigError(
            f"images.tiles: these bounds are impossible: tile={tile}, min_tiles={min_tiles}, max_tiles={max_tiles}. "
            "Try: tile >= 1 and 1 <= min_tiles <= max_tiles"
        )
    if width < 1 or height < 1:
        raise PictureError(
            f"cannot cut tiles from a picture of {width} x {height} pixels. Try: a picture whose sides are at least 1 pixel"
        )
    aspect = width / height
    best, smallest = (1, 1), float("inf")
    for cols, rows in _grids(min_tiles, max_tiles):
        # Floating point on purpose, because checkpoints were trained with it. For about one size in a thousand
        # (900 x 1080), two grids are equally close in exact arithmetic but not in doubles, and an exact rule would take
        # the other grid.
        distance = abs(aspect - cols / rows)
        tie = distance == smallest and 2 * width * height > tile * tile * cols * rows
        if distance < smallest or tie:
            best, smallest = (cols, rows), distance
    return best


def count_tiles(width: int, height: int, *, tile: int, max_tiles: int, min_tiles: int = 1, thumbnail: bool) -> int:
    """Return how many tiles `cut_tiles` makes from a picture of `width` x `height` pixels.

    The thumbnail counts as one tile. There is no thumbnail if the grid is a single tile, because both would be equal.
    """
    cols, rows = tile_grid(width, height, tile=tile, min_tiles=min_tiles, max_tiles=max_tiles)
    return cols * rows + int(thumbnail and cols * rows > 1)


@lru_cache(maxsize=64)
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Return all grids `(cols, rows)` with `min_tiles <= cols * rows <= max_tiles`, sorted by the number of tiles."""
    grids = [
        (cols, rows)
        for cols in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // cols + 1)
        if cols * rows >= min_tiles
    ]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0])))


def best_grid(size: tuple[int, int], grids: Sequence[Sequence[int]], tile: int) -> tuple[int, int]:
    """Return the grid of `grids` (rows, cols) that fits a picture of `size` (width, height) best.

    The best grid keeps the most pixels of the picture. Among those, it has the fewest unused pixels.
    """
    width, height = size

    def kept_and_wasted(grid: Sequence[int]) -> tuple[int, int]:
        rows, cols = grid[0] * tile, grid[1] * tile
        scale = min(cols / width, rows / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - rows * cols

    best = max(grids, key=kept_and_wasted)  # the first of several equal grids, as in LLaVA
    return best[0], best[1]


def unpadded(grid: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the (rows, cols) of a map of `grid` without the border that centring a picture of `size` (width, height) added."""
    rows, cols = grid
    if size[0] / size[1] > cols / rows:
        # round to seven digits before the floor, as transformers does: 24.000000000000004 and 23.999999999999996 are both 24
        return rows - (rows - int(round(size[1] * (cols / size[0]), 7))) // 2 * 2, cols
    return rows, cols - (cols - int(round(size[0] * (rows / size[1]), 7))) // 2 * 2


def tiles_and_tokens(
    images: ImagesConfig, size: tuple[int, int], tile: int, grid: tuple[int, ...] | None, tokens: int
) -> tuple[int, int]:
    """Return the number of tiles of a picture of `size` (width, height), and of the tokens that the language model gets.

    `tile` is the side of a tile in pixels. A tile has `tokens` tokens, with a `grid` of (rows, cols) or, if the tiles are not
    joined as one map, None.
    """
    if images.tiles is not None:
        most, least, thumbnail = images.tiles.max, images.tiles.min, images.tiles.thumbnail
        count = count_tiles(*size, tile=tile, max_tiles=most, min_tiles=least, thumbnail=thumbnail)
        return count, count * tokens
    if images.anyres is None:
        return 1, tokens
    rows, cols = best_grid(size, images.anyres.grids, tile)
    count = 1 + rows * cols
    if images.anyres.merge == "flat":
        return count, count * tokens
    assert grid is not None  # `resolve` checks it
    whole = rows * grid[0], cols * grid[1]
    whole = unpadded(whole, size) if images.anyres.merge == "spatial_unpad" else whole
    return count, tokens + _map_tokens(images.anyres, whole, grid)


def _map_tokens(anyres: AnyresConfig, whole: tuple[int, int], grid: tuple[int, ...]) -> int:
    """Return the number of tokens of a map (rows, cols) of tiles of `grid`, with the newline token behind each row if any."""
    if anyres.shrink_to is not None:
        whole = shrunk(whole, anyres.shrink_to * grid[0] * grid[1])
    return whole[0] * (whole[1] + (anyres.merge == "spatial_unpad"))


def shrunk(grid: tuple[int, int], most: int) -> tuple[int, int]:
    """Return the (rows, cols) of a map scaled down to about `most` positions if it has over 1.21 times as many."""
    ratio = math.sqrt(grid[0] * grid[1] / most)
    return (max(1, int(grid[0] // ratio)), max(1, int(grid[1] // ratio))) if ratio > 1.1 else grid


def most_tokens(images: ImagesConfig, grid: tuple[int, ...] | None, tokens: int) -> int:
    """Return the most tokens that the language model gets of any picture (see `tiles_and_tokens`)."""
    anyres = images.anyres
    if anyres is None or anyres.merge == "flat":
        return images.most_tiles * tokens
    assert grid is not None  # `resolve` checks it
    maps = [(rows * grid[0], cols * grid[1]) for rows, cols in anyres.grids]
    if anyres.merge == "spatial_unpad":  # without some of the rows or columns it may be shrunk less
        lower = [(rows - less, cols) for rows, cols in maps for less in range(rows)]
        maps = lower + [(rows, cols - less) for rows, cols in maps for less in range(cols)]
    return tokens + max(_map_tokens(anyres, each, grid) for each in maps)
