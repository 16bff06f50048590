"""`ReductionSpec`: a step that turns the tokens of a picture into fewer tokens. Frozen data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita_core.plugins.specs import check_fields

__all__ = ["ReductionSpec", "Sizes"]

Sizes = tuple[int, ...]
"""The sizes of the tokens of one picture: (rows, cols, width) on a grid, or (tokens, width) without one."""


@dataclass(frozen=True)
class ReductionSpec:
    """A reduction that ``tower.reduce: {type: NAME}`` selects.

    summary: one line for ``vita reductions``.
    factory: ``"module:name"``, called with ``(sizes, options)``, the planned sizes of its input and its options. It returns
    an ``nn.Module``. The module is called with tokens (B, N, C) and their grid (rows, cols), or None without one, and
    returns tokens (B, N', C'). The grid of a picture may be another than the planned one. Of a video, each step is reduced.
    sizes: function of the `Sizes` of the input and the options that returns those of the output. ``vita plan`` and the tower
    use it. It raises VitaError if the step is impossible, without naming the key of the config.
    paper: the title of the paper that describes the reduction, with its arXiv id.
    parameters: function of the same arguments that returns the number of parameters, or None if nothing is learned.
    macs: function of the same arguments that returns the multiply-accumulates for one picture, or None if there are few.
    tensors: function of the same arguments that returns the shape of each tensor of its weights, by key. The plan compares
    them with those of the file that ``weights`` names.
    renames, skips: what maps the keys of published checkpoints to those of the module, as (regular expression, replacement)
    pairs, all applied in order; then (regular expression, reason) pairs for the tensors that the module does not use.
    spatial: whether it needs a grid.
    block: function of the options that returns n, if the reduction joins n x n neighbours to one token, so that both sides of
    the grid must be multiples of n. Pictures of native resolution are then resized to whole blocks.
    inside: ``"module:name"`` of what runs it inside the encoder, for ``blocks: [...]``, or None if it cannot.
    scores: whether the module also takes ``scores=``, how much the CLS token attends to each patch (B, N) in the last block
    that ran, averaged over the heads.
    options: ``"module:Options"``, a pydantic model that validates its other keys.
    requires: the requirement to ``pip install`` if importing the factory fails.
    example: options of a small reduction, which ``vita check NAME`` builds with random weights.
    """

    name: str
    summary: str
    factory: str
    sizes: Callable[[Sizes, Mapping[str, Any]], Sizes]
    paper: str
    parameters: Callable[[Sizes, Mapping[str, Any]], int] | None = None
    macs: Callable[[Sizes, Mapping[str, Any]], int] | None = None
    tensors: Callable[[Sizes, Mapping[str, Any]], Mapping[str, tuple[int, ...]]] | None = None
    renames: Sequence[tuple[str, str]] = ()
    skips: Sequence[tuple[str, str]] = ()
    spatial: bool = True
    block: Callable[[Mapping[str, Any]], int] | None = None
    inside: str | None = None
    scores: bool = False
    options: str | None = None
    requires: str | None = None
    example: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(
            self,
            dict.fromkeys(("name", "summary", "factory", "paper"), str)
            | {"sizes": Callable, "parameters": Callable | None, "macs": Callable | None, "block": Callable | None}
            | {"tensors": Callable | None, "renames": tuple | list, "skips": tuple | list}
            | {"spatial": bool, "scores": bool, "inside": str | None, "example": Mapping}
            | dict.fromkeys(("options", "requires"), str | None),
        )

    @property
    def trainable(self) -> bool:
        """Whether it has weights to learn."""
        return self.parameters is not None
