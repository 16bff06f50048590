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
    import torch
    from PIL import Image

    pictures = [(picture, [*grids[name]][-2:]) for name in features for picture in shown[name]]
    tokens = [step for name, tiles in features.items() for step in tiles[-1].chunk(len(shown[name]))]
    flat = torch.cat(tokens).float()
    centred = flat - flat.mean(0)
    count = min(3, *centred.shape)
    _, _, directions = torch.pca_lowrank(centred, q=count, center=False)
    colours = torch.zeros(len(flat), 3)
    colours[:, :count] = centred @ directions[:, :count]
    low, high = colours.amin(0), colours.amax(0)
    levels = ((colours - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
    sheet = Image.new("RGB", (2 * side, side * len(pictures)), (255, 255, 255))
    parts = levels.split([len(part) for part in tokens])
    for index, ((picture, grid), part) in enumerate(zip(pictures, parts, strict=True)):
        sheet.paste(picture.resize((side, side)), (0, index * side))
        drawn = Image.fromarray(part.reshape(*grid, 3).numpy())
        sheet.paste(drawn.resize((side, side), Image.Resampling.NEAREST), (side, index * side))
    return sheet
