"""From pixels to the tokens that the language model gets: tower, projector, and the joining of a picture's tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vita_core.config.schema import Config
from vita_core.language.projectors import project
from vita_core.models.old_names import OldNames
from vita_core.models.pictures import encoded, grid_of, token_grid
from vita_core.pixels.anyres import pack
from vita_core.pixels.fused import Pixels, one_batch
from vita_core.planning.geometry import Grid
from vita_core.planning.resolution import Resolved

__all__ = ["PictureTokens"]


class PictureTokens(OldNames):
    """The part of a model that turns pixels into projected tokens. `newline` (D) ends the rows of LLaVA-1.6's maps."""

    resolved: Resolved
    settings: Config
    newline: Tensor | None

    def encode_images(self, pixels: Pixels) -> Tensor:
        """Return the projected tokens (tiles, N, D) of pixels (tiles, 3, H, W)."""
        return self.projected(self.tower(pixels), grid_of(self.tower, pixels))

    def encode_each(self, pictures: Sequence[Pixels]) -> list[Tensor]:
        """Return the projected tokens (tiles, N, D) of each of the pixels (tiles, 3, H, W), which go through in one batch.

        With native resolution, each may have another size, and gets its own N.
        """
        if self.tower.shape.native is None:
            return list(self.encode_images(one_batch(pictures)).split([len(pixels) for pixels in pictures]))
        each = zip(encoded(self.tower, pictures), pictures, strict=True)
        return [self.projected(features, grid_of(self.tower, pixels)) for features, pixels in each]

    def projected(self, features: Tensor, grid: Grid | None) -> Tensor:
        """Return the projected tokens (tiles, N', D) of the tower's (tiles, N, C), which are on `grid` if they have one."""
        projector, _ = self.resolved.language("the model")
        # of native resolution, a picture's own grid may be one that it cannot take
        projector.behind(grid, features.shape[1])
        own = next(self.projector.parameters(), None)  # while it is trained, it may be float32 before a smaller decoder
        dtype = self.llm.dtype if own is None else own.dtype
        return project(self.projector, features.to(dtype), grid).to(self.llm.dtype)

    def pack(
        self, tokens: Tensor, size: tuple[int, int], by_tile: bool = False, ends: Tensor | None = None
    ) -> list[Tensor]:
        """Join the tokens (tiles, N, D) of a picture of `size` (width, height) to a tensor (M, D) for each of its places.

        With `by_tile`, each tile has its own place in the prompt. `ends` are the language model's `row_ends`, if they are known.
        """
        anyres, (projector, _) = self.settings.images.anyres, self.resolved.language("the model")
        if anyres is not None:
            tile = self.tower.resolved.geometry.input_size[0]
            grid, _ = projector.behind(self.tower.grid, self.tower.num_tokens)
            return [pack(tokens, grid, size, anyres, tile, self.newline)]
        ends = self.llm.row_ends(self.settings.prompt) if ends is None else ends
        if ends is not None:
            own = token_grid(self.tower, self.settings.images, size)
            grid, _ = projector.behind(own, math.prod(own))
            assert grid is not None  # checked when the model was resolved
            between, last = ends.to(tokens)
            after = torch.stack([between] * (grid[0] - 1) + [last])[:, None]
            rows = [torch.cat([tile.unflatten(0, tuple(grid)), after], dim=1) for tile in tokens]
            tokens = torch.stack([tile.flatten(0, 1) for tile in rows])
        return list(tokens) if by_tile else [tokens.flatten(0, 1)]
