"""Encoders of native resolution: the size that a picture is resized to, in integers, from its own aspect and a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from vita_core.errors import PictureError, VitaError

__all__ = ["MAX_ASPECT", "RULES", "NativeSize"]

MAX_ASPECT = 200
"""The longest side of a picture that is used, in shorter sides."""


@dataclass(frozen=True)
class NativeSize:
    """How an encoder that keeps each picture's own aspect sizes it: whole blocks, within a budget of patches.

    patch: the side of a patch in pixels.
    merge: the side of a block in patches. Both sides of a picture are multiples of `block`. A model whose merger joins 2 x 2
    patches has 2 here.
    min_tokens, max_tokens: the fewest and most patches of a picture, the budget of the model's image processor. If that
    counts pixels, they are `Fraction(pixels, patch**2)`.
    max_side: the most patches on a side, if the encoder has no positions beyond them.
    rule: how a size is found, a key of `RULES`, or a function of (height, width, this NativeSize) that returns the resized
    (height, width).
    resizes: function of the same arguments that returns the sizes to which the image processor resizes a picture one after
    the other, if it has other ones than that of `rule`. Then what is left over is cut off, and what is missing is black.
    by_edge: whether `max_tokens` is the square of the longest edge, so that only a square picture has as many. It is for the
    rule ``longest_edge``.
    """

    patch: int
    max_tokens: int | Fraction
    merge: int = 1
    min_tokens: int | Fraction = 1
    rule: str | Callable[[int, int, NativeSize], tuple[int, int]] = "fill"
    max_side: int | None = None
    resizes: Callable[[int, int, NativeSize], Sequence[tuple[int, int]]] | None = None
    by_edge: bool = False

    def __post_init__(self) -> None:
        if self.rule == "longest_edge":
            object.__setattr__(self, "by_edge", True)
        if isinstance(self.rule, str) and self.rule not in RULES:
            raise VitaError(f"NativeSize.rule: unknown: {self.rule!r}. Try: one of {', '.join(RULES)}, or a function")
        if min(self.patch, self.merge, self.min_tokens) < 1 or self.max_tokens < max(self.min_tokens, self.merge**2):
            raise VitaError(
                f"NativeSize: no picture fits {self.min_tokens} to {self.max_tokens} patches of {self.patch} pixels in blocks of "
                f"{self.merge} x {self.merge}. Try: check the budget in the checkpoint's preprocessor_config.json"
            )

    @property
    def block(self) -> int:
        """The number of pixels of which both sides of a resized picture are multiples."""
        return self.patch * self.merge

    @property
    def square(self) -> tuple[int, int]:
        """The (height, width) in pixels of the largest square picture within the budget."""
        side = math.isqrt(int(self.max_tokens) // self.merge**2) * self.block
        return side, side

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) in pixels that a picture of (height, width) pixels is resized to.

        Raises PictureError for a picture that is too narrow to keep its aspect.
        """
        shape = f"a picture of {width} x {height} pixels"
        if min(height, width) < 1:
            raise PictureError(f"{shape} has no pixels. Try: a picture of at least 1 x 1 pixels")
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise PictureError(
                f"{shape} has an aspect ratio above {MAX_ASPECT}:1, which the encoder cannot keep. Try: crop it into shorter "
                "pieces, or a tower of fixed size"
            )
        size = self.by_rule(self.rule, height, width) if isinstance(self.rule, str) else self.rule(height, width, self)
        rows, cols = self.grid(*size)
        if self.max_side is not None and max(rows, cols) > self.max_side:
            raise PictureError(
                f"{shape} takes {rows} x {cols} patches, and the encoder has positions for {self.max_side} on a side. "
                "Try: crop it, or lower `images.max_tokens`"
            )
        if self.merge in (rows, cols) and rows * cols > self.max_tokens:
            raise PictureError(
                f"{shape} is too narrow for {int(self.max_tokens)} patches: it takes {rows} x {cols}. Try: crop it into shorter "
                "pieces, or raise `images.max_tokens`"
            )
        return size

    def by_rule(self, rule: str, height: int, width: int) -> tuple[int, int]:
        """Return the size by a named rule (``fill`` ...), unchecked, for a `rule` of your own that only adds to that one."""
        return RULES[rule](height, width, self)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (rows, cols) of patches of a resized picture. Raises VitaError unless it is made of whole blocks."""
        if height % self.block or width % self.block or min(height, width) < 1:
            raise VitaError(
                f"a picture of {width} x {height} pixels is not made of whole blocks of {self.block} x {self.block}. "
                "Try: prepare the pictures with the tower's image_processor"
            )
        return height // self.patch, width // self.patch


def _fill(height: int, width: int, native: NativeSize) -> tuple[int, int]:
    """NaFlex (arXiv 2502.14786): the largest size within `max_tokens`, with each side rounded up to whole blocks.

    The scale is found by bisection between the bounds of the libraries' processors, so that the same size comes out.
    """
    block, blocks, precision = native.block, int(native.max_tokens) // native.merge**2, 1e-5

    def scaled(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / block)), max(1, math.ceil(width * scale / block))

    low, high = precision / 10, 100.0
    while high - low >= precision:
        middle = (low + high) / 2
        rows, cols = scaled(middle)
        low, high = (middle, high) if rows * cols <= blocks else (low, middle)
    rows, cols = scaled(low)
    return rows * block, cols * block


def _between(height: int, width: int, native: NativeSize) -> tuple[int, int]:
    """Qwen2-VL (arXiv 2409.12191): each side rounded to whole blocks, scaled only if the area leaves the budget."""
    block, area = native.block, native.patch**2
    least, most = native.min_tokens * area, native.max_tokens * area
    rows, cols = round(height / block), round(width / block)
    if rows * cols * block**2 > most:
        shrink = math.sqrt(height * width / float(most))
        rows, cols = math.floor(height / shrink / block), math.floor(width / shrink / block)
    elif rows * cols * block**2 < least:
        grow = math.sqrt(float(least) / (height * width))
        rows, cols = math.ceil(height * grow / block), math.ceil(width * grow / block)
    return max(1, rows) * block, max(1, cols) * block


def _longest_edge(height: int, width: int, native: NativeSize) -> tuple[int, int]:
    """Pixtral (arXiv 2410.07073): shrunk to the side of the largest square, then each side rounded up to whole blocks."""
    longest = math.isqrt(int(native.max_tokens * native.patch**2))
    ratio = max(height / longest, width / longest)
    if ratio > 1:
        height, width = math.floor(height / ratio), math.floor(width / ratio)
    block = native.block
    return max(1, math.ceil(height / block)) * block, max(1, math.ceil(width / block)) * block


RULES: dict[str, Callable[[int, int, NativeSize], tuple[int, int]]] = {
    "fill": _fill,
    "between": _between,
    "longest_edge": _longest_edge,
}
"""The ways to size a picture. ``fill`` makes every picture about as large as the budget allows, ``between`` changes it only
if it is outside the budget, and ``longest_edge`` shrinks it to the side of the largest square."""
