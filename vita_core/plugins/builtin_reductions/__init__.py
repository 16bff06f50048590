"""The built-in reductions, as specs like those of any plugin. In: sizes and options. Out: sizes and costs. No torch."""

from __future__ import annotations

from vita_core.plugins.builtin_reductions.c_abstractor import C_ABSTRACTOR
from vita_core.plugins.builtin_reductions.qformer import QFORMER
from vita_core.plugins.builtin_reductions.resampler import RESAMPLER
from vita_core.plugins.builtin_reductions.spatial import INTERPOLATE, PIXEL_SHUFFLE, POOL
from vita_core.plugins.builtin_reductions.tokens import PRUNE, TOKEN_MERGING

__all__ = ["REDUCTIONS"]

REDUCTIONS = [INTERPOLATE, PIXEL_SHUFFLE, POOL, RESAMPLER, QFORMER, C_ABSTRACTOR, PRUNE, TOKEN_MERGING]
