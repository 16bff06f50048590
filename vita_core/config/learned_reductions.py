"""The options of the built-in reductions that learn: the keys of ``tower.reduce`` beside its type. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from vita_core.config.reductions import Sides
from vita_core.config.validation import Section

__all__ = ["CAbstractorOptions", "QFormerOptions", "ResamplerOptions"]

LAYOUTS = {
    "qwen": {"queries": 256, "post": True, "adaptive": False},
    "idefics2": {"queries": 64, "heads": 16, "depth": 3, "head_width": 96, "kv_heads": 4, "mlp_width": 14336},
}
"""The options of `resampler` that have a default in a layout, with the values of Qwen-VL and of Idefics2."""
OTHERS = {"qwen": ("depth", "head_width", "kv_heads", "mlp_width"), "idefics2": ("post", "adaptive")}
"""The options of `resampler` that a layout does not have."""


class ResamplerOptions(Section):
    """Learned queries attend to the tokens. `layout` is the model whose arithmetic and keys it has.

    ``qwen`` is one attention with fixed sines and cosines of the places on the grid, as in Qwen-VL. `queries` (256) is a square
    or [rows, cols]. `width` defaults to the input's, `heads` to one for 128 channels. `post` (true) adds Qwen-VL's ``ln_post``
    and ``proj`` behind it. The positions of the tokens are those of the queries' grid, interpolated; `adaptive: true` computes
    them for the tokens' own grid instead, as MiniCPM-V 2 does.

    ``idefics2`` is transformers' ``Idefics2PerceiverResampler``: `depth` (3) layers of `heads` (16) of `head_width` (96)
    channels, with `kv_heads` (4) for the keys and values, on `queries` (64). It needs no grid. With a `width`, Idefics2's
    ``modality_projection`` comes first, an MLP of `mlp_width` (14336) channels that maps to so many; without, the width stays.
    """

    layout: Literal["qwen", "idefics2"] = "qwen"
    queries: Sides | None = None
    width: PositiveInt | None = None
    heads: PositiveInt | None = None
    post: bool | None = None
    adaptive: bool | None = None
    depth: PositiveInt | None = None
    head_width: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    mlp_width: PositiveInt | None = None

    @model_validator(mode="after")
    def _of_its_layout(self) -> ResamplerOptions:
        wrong = [name for name in OTHERS[self.layout] if getattr(self, name) is not None]
        if wrong:
            other = "idefics2" if self.layout == "qwen" else "qwen"
            raise ValueError(
                f"layout {self.layout} has no option {wrong[0]!r}. Try: leave it out, or `layout: {other}`"
            )
        if self.mlp_width is not None and self.width is None:
            raise ValueError(
                "'mlp_width' is of the MLP before the layers, which comes with 'width'. Try: set 'width' too"
            )
        # a default depends on the layout, so it can only be set here; the section is frozen for everybody else
        for name, value in LAYOUTS[self.layout].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        return self


class QFormerOptions(Section):
    """BLIP-2's Q-Former: `queries` of `hidden_size` channels pass `depth` layers.

    Each has a self-attention of `heads`, in every `cross_every`-th layer an attention to the tokens, and an MLP of `mlp_width`
    channels. With a `width`, BLIP-2's ``language_projection`` maps the result to so many channels. There is no dropout.
    """

    queries: PositiveInt = 32
    hidden_size: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_width: PositiveInt = 3072
    cross_every: PositiveInt = 2
    width: PositiveInt | None = None


class CAbstractorOptions(Section):
    """Honeybee's C-Abstractor: `depth` RegNet blocks of `hidden_size` channels, an average to `queries`, and `depth` more.

    `queries` is a square or [rows, cols]. A readout of `mlp_depth` linear layers maps to `width` channels, by default the
    input's. `positions` is the grid of the learned positions, by default the input's (true); at another grid they are
    interpolated. `cls_position: true` reads an older checkpoint, which has an unused position of CLS before them. `prenorm`
    adds a LayerNorm of the input, and `end_tokens` so many learned tokens behind the output, which then has no grid.
    """

    queries: Sides = 144
    hidden_size: PositiveInt = 1024
    depth: Annotated[int, Field(ge=0)] = 3
    mlp_depth: PositiveInt = 2
    width: PositiveInt | None = None
    positions: Sides | bool = True
    cls_position: bool = False
    prenorm: bool = False
    end_tokens: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _positions_of_all(self) -> CAbstractorOptions:
        if self.cls_position and self.positions is False:
            raise ValueError("'cls_position' is set, but 'positions' is false. Try: leave one of them out")
        return self
