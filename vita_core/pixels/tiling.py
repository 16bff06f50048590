"""Dynamic tiling: how many tiles a picture is cut into. Standard library only, so that `plan` can count tokens.

The rule is InternVL 1.5's (arXiv 2404.16821, section 3.2): of all grids with a permitted number of tiles, the one
whose aspect ratio is closest to the picture's.
"""

from __future__ import annotations

from functools import lru_cache

from vita_core.errors import ConfigError, PictureError

__all__ = ["count_tiles", "tile_grid"]


def tile_grid(width: int, height: int, *, tile: int, min_tiles: int = 1, max_tiles: int = 12) -> tuple[int, int]:
    """The grid `(cols, rows)` that a picture of `width` x `height` pixels is cut into.

    `tile` is the side of one square tile in pixels; `min_tiles` and `max_tiles` bound `cols * rows`. Where two grids
    are equally close to the picture's aspect ratio, the one with more tiles wins if the picture has more than half
    as many pixels as that grid.

    Raises `ConfigError` for impossible bounds, `PictureError` for a side below one pixel.
    """
    if tile < 1 or not 1 <= min_tiles <= max_tiles:
        raise ConfigError(
            f"cannot tile with tile={tile}, min_tiles={min_tiles}, max_tiles={max_tiles}: "
            "give tile >= 1 and 1 <= min_tiles <= max_tiles."
        )
    if width < 1 or height < 1:
        raise PictureError(f"cannot tile a picture of {width} x {height} pixels: both sides must be at least 1.")
    aspect = width / height
    best, smallest = (1, 1), float("inf")
    for cols, rows in _grids(min_tiles, max_tiles):
        # Floating point on purpose: checkpoints were trained with it. In about one size of a thousand (900 x 1080)
        # two grids are equally close in exact arithmetic but not in doubles, and an exact rule would pick another.
        distance = abs(aspect - cols / rows)
        tie = distance == smallest and 2 * width * height > tile * tile * cols * rows
        if distance < smallest or tie:
            best, smallest = (cols, rows), distance
    return best


def count_tiles(width: int, height: int, *, tile: int, max_tiles: int, min_tiles: int = 1, thumbnail: bool) -> int:
    """How many tiles `cut_tiles` makes of a picture of `width` x `height` pixels.

    The thumbnail counts as one more, and is left out where the grid is a single tile (it would be that tile again).
    """
    cols, rows = tile_grid(width, height, tile=tile, min_tiles=min_tiles, max_tiles=max_tiles)
    return cols * rows + int(thumbnail and cols * rows > 1)


@lru_cache(maxsize=64)
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All `(cols, rows)` with `min_tiles <= cols * rows <= max_tiles`, fewest tiles first."""
    grids = [
        (cols, rows)
        for cols in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // cols + 1)
        if cols * rows >= min_tiles
    ]
    return tuple(sorted(grids, key=lambda grid: (grid[0] * grid[1], grid[0])))
