"""Pack pictures of any sizes for one run of a native-resolution model, and put its tokens into the order of the patches."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_plugins.transformers.natives import Native

Sizes = tuple[int, int]
PATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "vectors": lambda patches: patches.flatten(1),
    "frames_first": lambda patches: patches.transpose(1, 2).flatten(1),
    "patches": lambda patches: patches.flatten(1, 2),
    "sequence": lambda patches: patches.flatten(1, 2)[None],
    "channels_last": lambda patches: patches[:, :, 0].movedim(1, -1).flatten(1),
}
"""The forms in which models take patches (N, 3, frames, p, p)."""


@dataclass(frozen=True)
class Packed:
    """The pictures of one run.

    arguments: of the model's ``forward``.
    grids: the (rows, cols) of each picture.
    merge: patches per side of the blocks in which the tokens come; 1 if they come row by row.
    window: the side in blocks of the windows in which the tokens come, or None.
    padded: the (rows, cols) to which every picture is padded, or the number of its patches if they are padded as a sequence,
    or None if the tokens of all pictures are one sequence.
    """

    arguments: dict[str, Any]
    grids: tuple[Sizes, ...]
    merge: int = 1
    window: int | None = None
    padded: Sizes | int | None = None

    def joined(self) -> Packed:
        """Return the same pictures after each 2 x 2 tokens have become one."""
        return replace(self, grids=tuple((rows // 2, cols // 2) for rows, cols in self.grids))

    def pictures(self, state: Tensor) -> list[Tensor]:
        """Return the tokens (1, rows * cols, C) of each picture, row by row, from a hidden state of the model."""
        if isinstance(self.padded, int):
            return [state[i : i + 1, : rows * cols] for i, (rows, cols) in enumerate(self.grids)]
        if self.padded is not None:
            maps = state.unflatten(1, self.padded)
            return [maps[i : i + 1, :rows, :cols].flatten(1, 2) for i, (rows, cols) in enumerate(self.grids)]
        parts = state.flatten(0, -2).split([rows * cols for rows, cols in self.grids])
        return [self._in_rows(part, grid)[None] for part, grid in zip(parts, self.grids, strict=True)]

    def _in_rows(self, tokens: Tensor, grid: Sizes) -> Tensor:
        blocks = tokens.unflatten(0, (-1, self.merge**2))
        if self.window is not None:
            order = [
                *itertools.chain.from_iterable(windows((grid[0] // self.merge, grid[1] // self.merge), self.window))
            ]
            blocks = blocks[torch.tensor(order, device=tokens.device).argsort()]
        maps = blocks.unflatten(1, (self.merge, self.merge)).unflatten(0, (grid[0] // self.merge, -1))
        return maps.transpose(1, 2).flatten(0, 3)


def pack(native: Native, model: nn.Module, pictures: Sequence[Tensor]) -> Packed:
    """Return the arguments of one run of `model` on `pictures` (3, H, W), whose sides are multiples of the patch size."""
    config: Any = model.config
    patch, device = config.patch_size, pictures[0].device
    grids = tuple((picture.shape[1] // patch, picture.shape[2] // patch) for picture in pictures)
    given: dict[str, Any]
    if native.tiles:
        side = config.image_size
        tiles = torch.cat([patches(picture, side, 1, 1).flatten(1, 2) for picture in pictures])
        given = {"pixel_values": tiles}
        if native.packing == "mask":
            shape = len(tiles), side // patch, side // patch
            given["patch_attention_mask"] = torch.ones(shape, dtype=torch.bool, device=device)
        return Packed(given, grids, side // patch)
    if native.packing in ("sizes", "mask"):
        rows, cols = (max(grid[axis] for grid in grids) for axis in (0, 1))
        batch = [F.pad(it, (0, cols * patch - it.shape[2], 0, rows * patch - it.shape[1])) for it in pictures]
        given = {"pixel_values": torch.stack(batch)}
        if native.packing == "sizes":
            return Packed(given | {"image_sizes": [(it.shape[1], it.shape[2]) for it in pictures]}, grids)
        mask = torch.zeros(len(grids), rows, cols, dtype=torch.bool, device=device)
        for picture, (own_rows, own_cols) in enumerate(grids):
            mask[picture, :own_rows, :own_cols] = True
        return Packed(given | {"patch_attention_mask": mask}, grids, padded=(rows, cols))
    if native.packing in ("naflex", "positions"):
        return _rows(native, pictures, patch, grids)
    if native.packing == "strip":
        cut = torch.cat([patches(picture, patch, 1, 1)[:, :, 0] for picture in pictures])
        sizes = torch.tensor(grids, dtype=torch.int32)  # on the CPU, because the model reads the numbers
        return Packed({"pixel_values": cut.permute(1, 2, 0, 3).flatten(2)[None], "target_sizes": sizes}, grids)
    merge = getattr(config, native.merge) if native.merge and native.in_blocks else 1
    frames = getattr(config, native.frames, 1)
    cut = PATCHES[native.packing](torch.cat([patches(picture, patch, merge, frames) for picture in pictures]))
    pixels, *others = inspect.signature(model.forward).parameters
    if "image_grid_thw" in others:  # PaddleOCR-VL in older versions of transformers
        ends = torch.tensor([0, *itertools.accumulate(rows * cols for rows, cols in grids)], device=device)
        given = {pixels: cut, "image_grid_thw": [(1, *grid) for grid in grids], "cu_seqlens": ends}
    else:
        given = {pixels: cut, "grid_thw": torch.tensor([(1, *grid) for grid in grids], device=device)}
    if native.merge_sizes:
        given["merge_sizes"] = torch.full((len(grids),), merge, device=device)
    return Packed(given, grids, merge, None if native.window is None else native.window(config))


def _rows(native: Native, pictures: Sequence[Tensor], patch: int, grids: tuple[Sizes, ...]) -> Packed:
    """Pad rows of patches to the longest. Without padding there is no mask, and attention is faster."""
    rows = [PATCHES["channels_last"](patches(picture, patch, 1, 1)) for picture in pictures]
    given: dict[str, Any] = {"pixel_values": pad_sequence(rows, batch_first=True)}
    lengths = torch.tensor([len(row) for row in rows], device=pictures[0].device)
    most = max(len(row) for row in rows)
    if native.packing == "positions":
        places = [torch.cartesian_prod(*map(torch.arange, grid)).flip(1) for grid in grids]
        given["pixel_position_ids"] = pad_sequence(places, batch_first=True, padding_value=-1).to(lengths.device)
        return Packed(given, grids, padded=most)
    given["pixel_attention_mask"] = (
        None
        if len({len(row) for row in rows}) == 1
        else (torch.arange(most, device=lengths.device) < lengths[:, None]).long()
    )
    given["spatial_shapes"] = torch.tensor(grids)  # on the CPU, because the model reads the numbers
    return Packed(given, grids, padded=most)


def patches(picture: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Return the patches (N, 3, frames, patch, patch) of a picture (3, H, W), in blocks of merge x merge. A still repeats."""
    rows, cols = picture.shape[1] // patch, picture.shape[2] // patch
    cut = picture.reshape(3, rows // merge, merge, patch, cols // merge, merge, patch)
    cut = cut.permute(1, 4, 2, 5, 0, 3, 6).reshape(rows * cols, 3, 1, patch, patch)
    return cut.expand(-1, -1, frames, -1, -1)


def windows(grid: Sizes, side: int) -> list[list[int]]:
    """Return the indices of a grid's cells in each window of side x side cells. The last windows may be smaller."""
    rows, cols = grid
    return [
        [row * cols + col for row in range(top, min(top + side, rows)) for col in range(left, min(left + side, cols))]
        for top in range(0, rows, side)
        for left in range(0, cols, side)
    ]
