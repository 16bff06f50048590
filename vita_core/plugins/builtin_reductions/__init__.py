"""The built-in reductions, as specs like those of any plugin. In: sizes and options. Out: sizes and costs. No torch."""

from __future__ import annotations

from vita_core.plugins.builtin_reductions.spatial import INTERPOLATE, PIXEL_SHUFFLE, POOL

__all__ = ["REDUCTIONS"]

REDUCTIONS = [INTERPOLATE, PIXEL_SHUFFLE, POOL]
