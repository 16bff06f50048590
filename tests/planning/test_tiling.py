from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vita_core.errors import ConfigError, PictureError
from vita_core.planning.tiling import count_tiles, tile_grid

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "fixtures" / "golden" / "tiling.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['width']}x{case['height']}-{case['max_tiles']}")
def test_grid_and_count_are_internvls(case: dict[str, Any]) -> None:
    size, tile, most = (case["width"], case["height"]), case["tile"], case["max_tiles"]
    assert tile_grid(*size, tile=tile, max_tiles=most) == tuple(case["grid_cols_rows"])
    assert count_tiles(*size, tile=tile, max_tiles=most, thumbnail=case["thumbnail"]) == case["tiles"]


@pytest.mark.parametrize(
    ("width", "height", "tile", "grid"),
    [
        (448, 448, 448, (1, 1)),  # every square grid is as close: few pixels keep the small one
        (2000, 2000, 448, (3, 3)),
        (800, 400, 448, (2, 1)),
        (1600, 800, 448, (4, 2)),
        (900, 1080, 448, (2, 2)),  # exact arithmetic ties (2, 2) with (2, 3); the doubles of training do not
    ],
)
def test_ties_go_by_area_and_in_doubles(width: int, height: int, tile: int, grid: tuple[int, int]) -> None:
    assert tile_grid(width, height, tile=tile, max_tiles=12 if grid != (2, 2) else 6) == grid


@pytest.mark.parametrize(("least", "most"), [(1, 1), (2, 2), (3, 5), (6, 12), (7, 7)])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (30, 6000), (5000, 30), (1, 1)])
def test_the_number_of_tiles_keeps_its_bounds(width: int, height: int, least: int, most: int) -> None:
    cols, rows = tile_grid(width, height, tile=28, min_tiles=least, max_tiles=most)
    assert least <= cols * rows <= most


@pytest.mark.parametrize(("most", "thumbnail", "expected"), [(1, True, 1), (1, False, 1), (2, True, 3), (2, False, 2)])
def test_a_single_tile_has_no_thumbnail(most: int, thumbnail: bool, expected: int) -> None:
    assert count_tiles(800, 400, tile=28, max_tiles=most, thumbnail=thumbnail) == expected


@pytest.mark.parametrize("bounds", [{"tile": 0}, {"min_tiles": 0}, {"min_tiles": 5, "max_tiles": 4}, {"max_tiles": 0}])
def test_impossible_bounds_are_named(bounds: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"min_tiles=\d+, max_tiles=\d+"):
        tile_grid(640, 480, **{"tile": 28, **bounds})


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError, match=f"{size[0]} x {size[1]}"):
        tile_grid(*size, tile=28)


@pytest.mark.slow
def test_it_imports_no_numerics() -> None:
    code = "import sys, vita_core.planning.tiling; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
