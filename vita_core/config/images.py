"""The section ``images`` of a config: what happens to pictures before the tower. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field, PositiveInt

from vita_core.config.validation import Section
from vita_core.errors import ConfigError

__all__ = ["AnyresConfig", "ImagesConfig", "TilesConfig"]


class TilesConfig(Section):
    """InternVL-style tiles of the tower's input size: `min` to `max` tiles, and a thumbnail if there is more than one."""

    min: PositiveInt = 1
    max: PositiveInt = 12
    thumbnail: bool = True

    @pydantic.model_validator(mode="after")
    def _least_and_most(self) -> TilesConfig:
        if self.min > self.max:
            advice = f"`min: {self.max}` or `max: {self.min}`"
            raise ValueError(f"min is larger than max: {self.min} > {self.max}. Try: {advice}")
        return self


class AnyresConfig(Section):
    """LLaVA-1.6's tiles: a thumbnail, then the picture fitted into the best of `grids` (each [rows, cols] of tiles).

    `merge` joins the tokens of the tiles: `flat` one tile after the other, `spatial` as one map, `spatial_unpad` as one map
    without the padding and with LLaVA-1.6's ``image_newline`` token at the end of each row. This token comes from the
    checkpoint, or from the safetensors file `newline`, which saved models have. With `shrink_to: n`, a map of over 1.21 n
    tiles is scaled down to n tiles' tokens, bilinearly (LLaVA-OneVision's ``anyres_max_9``). With `several: pad`, several
    pictures in one prompt are not cut: each is padded to a square, and its tokens end with the newline token.
    """

    grids: Annotated[list[Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]], Field(min_length=1)]
    merge: Literal["flat", "spatial", "spatial_unpad"] = "flat"
    newline: str | None = None
    shrink_to: PositiveInt | None = None
    several: Literal["tiles", "pad"] = "tiles"


class ImagesConfig(Section):
    """Pixels before the tower. `aspect: pad` pads pictures to a square; larger ones than `max_pixels` are not opened.

    `min_tokens` and `max_tokens` are for towers of native resolution: the fewest and most tokens of a picture that the
    language model gets. By default they follow from the checkpoint's image processor. `frames` is the number of frames that
    are used of a video: of a tower of pictures the most (16 by default), of a tower of videos its own number.
    """

    aspect: Literal["square", "pad"] = "square"
    tiles: TilesConfig | None = None
    anyres: AnyresConfig | None = None
    max_pixels: PositiveInt | None = None
    min_tokens: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    frames: PositiveInt | None = None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ImagesConfig:
        if self.tiles is not None and self.anyres is not None:
            raise ValueError("tiles and anyres exclude each other. Try: `tiles: null` or `anyres: null`")
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            advice = f"`min_tokens: {self.max_tokens}` or `max_tokens: {self.min_tokens}`"
            raise ValueError(
                f"min_tokens is larger than max_tokens: {self.min_tokens} > {self.max_tokens}. Try: {advice}"
            )
        return self

    @property
    def most_tiles(self) -> int:
        """The largest number of pictures (tiles and thumbnail) that the tower encodes for one picture."""
        if self.anyres is not None:
            return 1 + max(rows * cols for rows, cols in self.anyres.grids)
        return 1 if self.tiles is None else self.tiles.max + int(self.tiles.thumbnail and self.tiles.max > 1)

    def at_most(self, tiles: int) -> ImagesConfig:
        """Return a copy with at most `tiles` tiles, not counting the thumbnail. Raises ConfigError if no grid is left."""
        if self.anyres is not None:
            grids = [grid for grid in self.anyres.grids if grid[0] * grid[1] <= tiles]
            if not grids:
                least = min(rows * cols for rows, cols in self.anyres.grids)
                raise ConfigError(f"--max-tiles: too few: {tiles}. The smallest grid has {least}. Try: {least} or more")
            return self.model_copy(update={"anyres": self.anyres.model_copy(update={"grids": grids})})
        if self.tiles is None:
            return self
        return self.model_copy(update={"tiles": self.tiles.model_copy(update={"max": tiles})})
