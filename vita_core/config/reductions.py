"""The schema of ``tower.reduce``: one reduction, and the options of the built-in ones. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, PositiveInt, model_validator

from vita_core.config.validation import Section

__all__ = [
    "InterpolateOptions",
    "MergingOptions",
    "PixelShuffleOptions",
    "PoolOptions",
    "PruneOptions",
    "ReductionConfig",
    "Sides",
]

Sides = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
"""A side, or [rows, cols]."""


class ReductionConfig(Section):
    """One step of ``tower.reduce``. The keys besides these are the options of its type (see ``vita reductions``).

    `weights` is the file with its weights, if it learns. `where: after`, the default, runs it on the tower's features;
    `blocks` runs it in these blocks of the encoder (1 = the first) instead, for the types and towers that offer it.
    """

    model_config = pydantic.ConfigDict(extra="allow")

    type: str
    weights: str | None = None
    where: Literal["after"] | None = None
    blocks: Annotated[list[PositiveInt], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> ReductionConfig:
        if self.where is not None and self.blocks is not None:
            raise ValueError("'where' and 'blocks' exclude each other. Try: leave one of them out")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the type itself defines."""
        return dict(self.model_extra or {})


class PixelShuffleOptions(Section):
    """`scale_factor` 1/n moves n x n tokens into channels. InternVL's old `order` ``v1`` also transposes the map."""

    scale_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    order: Literal["v1", "v2"] = "v2"


class PoolOptions(Section):
    """Either `grid`, the side or [rows, cols] of the output, or `window`, how many tokens of a side become one."""

    grid: Sides | None = None
    window: Sides | None = None
    kind: Literal["average", "max"] = "average"

    @model_validator(mode="after")
    def _either(self) -> PoolOptions:
        if (self.grid is None) == (self.window is None):
            found = (
                "neither 'grid' nor 'window' is set" if self.grid is None else "'grid' and 'window' exclude each other"
            )
            raise ValueError(f"{found}. Try: one of them")
        return self


class InterpolateOptions(Section):
    """`grid` is the side or [rows, cols] of the output. The `mode` is torch's, with align_corners false."""

    grid: Sides
    mode: Literal["bilinear", "bicubic", "nearest", "area"] = "bilinear"


class MergingOptions(Section):
    """One of `tokens`, the number of tokens that are left, `ratio`, the share of them, and `per_block`, the number of tokens
    that each of `blocks` merges into others, but at most half (r in the paper).
    """

    tokens: PositiveInt | None = None
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    per_block: PositiveInt | None = None

    @model_validator(mode="after")
    def _one(self) -> MergingOptions:
        _only_one(self, ("tokens", "ratio", "per_block"))
        return self


class PruneOptions(Section):
    """Either `keep`, the number of tokens that are kept, or `ratio`, the share of them. The `rest` becomes one more token
    (``merge``), or is lost (``drop``).
    """

    keep: PositiveInt | None = None
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    rest: Literal["merge", "drop"] = "merge"

    @model_validator(mode="after")
    def _one(self) -> PruneOptions:
        _only_one(self, ("keep", "ratio"))
        return self


def _only_one(options: Section, keys: tuple[str, ...]) -> None:
    stated = [key for key in keys if getattr(options, key) is not None]
    if len(stated) != 1:
        raise ValueError(f"{len(stated)} of {', '.join(keys)} are set. Try: one of them")
