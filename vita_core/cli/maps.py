"""Draw the tokens of pictures and videos as colours, for ``vita encode --picture-map``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["SIDE", "draw_maps"]

SIDE = 336
"""The side of a drawn picture, in pixels."""


def draw_maps(
    shown: Mapping[str, Sequence[Image.Image]],
    features: Mapping[str, Tensor],
    grids: Mapping[str, Sequence[int]],
    side: int = SIDE,
) -> Image.Image:
    """Draw pictures beside their features (tiles, N, C), whose first three principal components are red, green and blue.

    The components are computed over all pictures. Pictures are resized to squares. With tiles, the tokens of the last one
    (the thumbnail) are drawn. A clip has a picture for each of its steps.
    """
    from PIL import Image

    from vita_core.towers.colours import pca_colours

    pictures = [(picture, [*grids[name]][-2:]) for name in features for picture in shown[name]]
    tokens = [step for name, tiles in features.items() for step in tiles[-1].chunk(len(shown[name]))]
    sheet = Image.new("RGB", (2 * side, side * len(pictures)), (255, 255, 255))
    for index, ((picture, grid), part) in enumerate(zip(pictures, pca_colours(tokens), strict=True)):
        sheet.paste(picture.resize((side, side)), (0, index * side))
        drawn = Image.fromarray(part.reshape(*grid, 3).numpy())
        sheet.paste(drawn.resize((side, side), Image.Resampling.NEAREST), (side, index * side))
    return sheet
