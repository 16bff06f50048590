"""Dynamic tiling: into how many tiles a picture is cut.

It uses the standard library only, so that `vita plan` can count tokens without torch. The rule is that of InternVL 1.5
(arXiv 2404.16821, section 3.2): among all grids with an allowed number of tiles, take the one whose aspect ratio is
closest to the picture's.
"""

from __future__ import annotations

from functools import lru_cache

from vita_core.errors import ConfigError, PictureError

__all__ = ["count_tiles", "tile_grid"]


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
