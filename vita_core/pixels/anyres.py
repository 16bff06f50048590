"""The "anyres" tiles of LLaVA-1.6 (arXiv 2310.03744 and the LLaVA-NeXT blog).

`cut_anyres` cuts a picture into tiles before the tower; `pack` joins the tiles' tokens after the projector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vita_core.config.schema import AnyresConfig
from vita_core.errors import CheckpointError
from vita_core.loading import read_tensors
from vita_core.pixels.images import Resize, bicubic
from vita_core.planning.geometry import Grid
from vita_core.planning.tiling import best_grid, shrunk, unpadded

__all__ = ["NEWLINE", "cut_anyres", "pack", "read_newline"]

NEWLINE = "image_newline"
"""The key of the tensor (D) that ends a row of tokens, as LLaVA-1.6's checkpoints name it."""


def read_newline(config: AnyresConfig | None, *, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return the `image_newline` tensor (D) from the file `images.anyres.newline`, or None if the config names no file.

    Raises CheckpointError if the file has no such tensor.
    """
    if config is None or config.newline is None:
        return None
    others = []
    for key, read in read_tensors([Path(config.newline)]):
        if key.rpartition(".")[2] == NEWLINE:  # in the file of a first training stage, `model.` comes before it
            return read().to(device=device, dtype=dtype)
        others.append(key)
    raise CheckpointError(
        f"images.anyres.newline: {config.newline} has no tensor {NEWLINE!r}; it has {', '.join(others)}. "
        f"Try: the checkpoint file that has {NEWLINE!r}"
    )


def cut_anyres(
    picture: Image.Image, grids: Sequence[Sequence[int]], tile: int, resize: Resize = bicubic
) -> list[Image.Image]:
    """Return the whole picture resized to one tile, followed by its tiles row by row.

    The tiles are cut from the picture fitted into the best grid and centred on black.
    """
    rows, cols = best_grid(picture.size, grids, tile)
    width, height = picture.size
    box = (cols * tile, rows * tile)
    scale_x, scale_y = box[0] / width, box[1] / height
    if scale_x < scale_y:
        fitted = (box[0], min(math.ceil(height * scale_x), box[1]))
    else:
        fitted = (min(math.ceil(width * scale_y), box[0]), box[1])
    canvas = Image.new("RGB", box)
    resized = resize(picture, fitted)
    canvas.paste(resized, ((box[0] - fitted[0]) // 2, (box[1] - fitted[1]) // 2))
    corners = [(col * tile, row * tile) for row in range(rows) for col in range(cols)]
    whole = resize(picture, (tile, tile))
    return [whole, *(canvas.crop((left, top, left + tile, top + tile)) for left, top in corners)]


def pack(
    tokens: Tensor, grid: Grid | None, size: tuple[int, int], config: AnyresConfig, tile: int, newline: Tensor | None
) -> Tensor:
    """Join the projected tokens (1 + tiles, N, D) of one picture into one sequence (M, D), as `config.merge` says.

    `size` is the picture's (width, height). `grid` is the (rows, cols) of one tile's N tokens; ``flat`` needs none. `newline`
    (D) is appended to each row if `merge` is ``spatial_unpad``. A picture that was not cut (see `config.several`) has tokens
    (1, N, D).
    """
    if config.merge == "flat":
        return tokens.flatten(0, 1)
    if len(tokens) == 1:
        return tokens[0] if newline is None else torch.cat([tokens[0], newline.to(tokens)[None]])
    assert grid is not None  # `resolve` checks it
    rows, cols = best_grid(size, config.grids, tile)
    tiles = tokens[1:].unflatten(1, grid).unflatten(0, (rows, cols))  # (rows, cols, h, w, D)
    whole = tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (rows * h, cols * w, D)
    if config.merge == "spatial_unpad":
        whole = _unpad(whole, size)
    if config.shrink_to is not None:
        size = shrunk((whole.shape[0], whole.shape[1]), config.shrink_to * grid[0] * grid[1])
        if size != whole.shape[:2]:
            whole = F.interpolate(whole.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
    if config.merge == "spatial_unpad":
        assert newline is not None
        ends = newline.to(whole).expand(whole.shape[0], 1, -1)
        whole = torch.cat([whole, ends], dim=1)
    return torch.cat([tokens[0], whole.flatten(0, 1)])


def _unpad(whole: Tensor, size: tuple[int, int]) -> Tensor:
    """Remove from a map (H, W, D) the border that was added when a picture of `size` (width, height) was centred."""
    height, width = whole.shape[:2]
    rows, cols = unpadded((height, width), size)
    top, left = (height - rows) // 2, (width - cols) // 2
    return whole[top : top + rows, left : left + cols]
