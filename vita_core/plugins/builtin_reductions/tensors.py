"""Tables of the tensors of a reduction that learns, from which its size is planned and the header of its file is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vita_core.errors import VitaError
from vita_core.plugins.shapes import pair

__all__ = ["TensorShapes", "linear", "norm", "numbers", "query_grid"]

TensorShapes = Mapping[str, tuple[int, ...]]
"""The key of each tensor of a module, and its shape."""


def linear(key: str, rows: int, cols: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a linear layer from `cols` to `rows` channels."""
    return {f"{key}.weight": (rows, cols)} | ({f"{key}.bias": (rows,)} if bias else {})


def norm(key: str, width: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a LayerNorm, or without `bias` of an RMSNorm."""
    return dict.fromkeys([f"{key}.weight", f"{key}.bias"][: 1 + bias], (width,))


def numbers(shapes: TensorShapes, *fixed: str) -> int:
    """Return how many numbers are learned: those of all tensors but the `fixed` ones."""
    return sum(math.prod(shape) for key, shape in shapes.items() if key not in fixed)


def query_grid(value: int | Sequence[int], key: str = "queries") -> tuple[int, int]:
    """Return (rows, cols) of the option `key`: [rows, cols] or their product. Raises VitaError unless that is a square."""
    if not isinstance(value, int):
        return pair(value)
    side = math.isqrt(value)
    if side * side != value:
        near = f"`{key}: {side * side}`, or `{key}: [ROWS, COLS]` for another grid"
        raise VitaError(f"{key}: {value} do not fill a square. Try: {near}")
    return side, side
