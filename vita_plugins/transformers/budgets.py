"""How the image processors of transformers size pictures whose aspect is kept: rules and budgets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from vita_core import NativeSize, VitaError
from vita_plugins.transformers.borrowed import Sizes, gemma4, glm5, glm_image, granite, muse

MOST = 4096
"""The longest edge of a picture for Idefics3, in pixels."""


def between(processor: Any, patch: int, merge: int) -> NativeSize:
    """Qwen2-VL's: the fewest and most pixels."""
    least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
    return NativeSize(patch, Fraction(most, patch**2), merge, Fraction(least, patch**2), rule="between")


def glm(processor: Any, patch: int, merge: int) -> NativeSize:
    """GLM-4V's: as Qwen2-VL's, of pictures that are at least one block large. It counts the pixels of all frames of a patch."""
    size, frames = between(processor, patch, merge), processor.temporal_patch_size
    return replace(size, max_tokens=size.max_tokens / frames, min_tokens=size.min_tokens / frames, rule=_glm)


def _glm(height: int, width: int, native: NativeSize) -> Sizes:
    if min(height, width) < native.block:
        scale = max(native.block / height, native.block / width)
        height, width = int(height * scale), int(width * scale)
    return native.by_rule("between", height, width)


def paddleocr(processor: Any, patch: int, merge: int) -> NativeSize:
    """PaddleOCR-VL's: as Qwen2-VL's, of pictures that are at least one block large."""
    return replace(between(processor, patch, merge), rule=_paddleocr)


def _paddleocr(height: int, width: int, native: NativeSize) -> Sizes:
    block = native.block
    if height < block:
        height, width = block, round(width * block / height)
    if width < block:
        height, width = round(height * block / width), block
    return native.by_rule("between", height, width)


def longest_edge(processor: Any, patch: int, merge: int) -> NativeSize:
    """Pixtral's: the longest edge."""
    return NativeSize(patch, Fraction(_edge(processor.size) ** 2, patch**2), merge, rule="longest_edge")


def _edge(size: Any) -> int:
    """Return the longest edge of a size of transformers."""
    edge = size.get("longest_edge") or max(size.get("height") or 0, size.get("width") or 0)
    if not edge:
        raise VitaError(
            f"preprocessor config: size: no longest_edge: {dict(size)}. Try: correct it in preprocessor_config.json"
        )
    return int(edge)


def idefics2(processor: Any, patch: int, merge: int) -> NativeSize:
    """Idefics2's: the longest edge, but a shortest edge as well. What is left beside whole patches is cut off."""
    longest = Fraction(processor.size["longest_edge"] ** 2, patch**2)
    shortest = Fraction(processor.size["shortest_edge"] ** 2, patch**2)
    return NativeSize(patch, longest, merge, shortest, rule=_whole_patches, resizes=_idefics2, by_edge=True)


def _idefics2(height: int, width: int, native: NativeSize) -> list[Sizes]:
    shortest, longest = (math.isqrt(int(count * native.patch**2)) for count in (native.min_tokens, native.max_tokens))
    aspect = width / height
    if width >= height and width > longest:
        height, width = int(longest / aspect), longest
    elif height > width and height > longest:
        height, width = longest, int(longest * aspect)
    return [(max(height, shortest), max(width, shortest))]


def _whole_patches(height: int, width: int, native: NativeSize) -> Sizes:
    assert native.resizes is not None
    height, width = native.resizes(height, width, native)[-1]
    return max(1, height // native.block) * native.block, max(1, width // native.block) * native.block


def idefics3(processor: Any, patch: int, merge: int) -> NativeSize:
    """Idefics3's: the longest edge, then whole tiles, by two resizes. A block is a tile."""
    longest = _edge(processor.size)
    return NativeSize(patch, Fraction(longest**2, patch**2), merge, rule=_last, resizes=_idefics3, by_edge=True)


def _idefics3(height: int, width: int, native: NativeSize) -> list[Sizes]:
    longest, block = math.isqrt(int(native.max_tokens * native.patch**2)), native.block

    def whole(side: int) -> int:
        return math.ceil(side / block) * block

    wide = width >= height
    long, short = (width, height) if wide else (height, width)
    first = longest, max(1, _even(int(longest / (long / short)) if wide else int(longest * (short / long))))
    if longest > MOST:
        first = MOST, max(1, int(MOST / (first[0] / first[1])) if wide else int(MOST * (first[1] / first[0])))
    side = whole(first[0])
    second = side, whole(int(side / (first[0] / first[1])) if wide else int(side * (first[1] / first[0])))
    return [size[::-1] if wide else size for size in (first, second)]


def _even(side: int) -> int:
    return side + side % 2


def kimi(processor: Any, patch: int, merge: int) -> NativeSize:
    """Kimi-K2.5's: the most patches of a picture and on a side. What is missing to whole blocks is black."""
    side = processor.size["max_height"]
    return NativeSize(patch, processor.max_patches, merge, max_side=side, rule=_whole_blocks, resizes=_kimi)


def _kimi(height: int, width: int, native: NativeSize) -> list[Sizes]:
    most = (native.max_side or native.max_tokens) * native.patch
    patches = max(1, height // native.patch) * max(1, width // native.patch)
    scale = min(1.0, math.sqrt(native.max_tokens / patches), most / height, most / width)
    return [(min(max(1, int(height * scale)), most), min(max(1, int(width * scale)), most))]


def _whole_blocks(height: int, width: int, native: NativeSize) -> Sizes:
    assert native.resizes is not None
    height, width = native.resizes(height, width, native)[-1]
    return math.ceil(height / native.block) * native.block, math.ceil(width / native.block) * native.block


def _last(height: int, width: int, native: NativeSize) -> Sizes:
    assert native.resizes is not None
    return native.resizes(height, width, native)[-1]


def naflex(processor: Any, patch: int, merge: int) -> NativeSize:
    """SigLIP 2's: the most patches, which every picture fills."""
    if not hasattr(processor, "max_num_patches") or hasattr(processor, "do_image_splitting"):
        raise VitaError(
            f"preprocessor config: {type(processor).__name__} cuts pictures into tiles, which is not supported for this encoder. "
            "Try: a preprocessor_config.json whose image_processor_type is Siglip2ImageProcessor"
        )
    return NativeSize(patch, processor.max_num_patches, merge)


def minicpm(processor: Any, patch: int, merge: int) -> NativeSize:
    """MiniCPM's: the area of a square, with each side rounded to whole blocks, so that the budget may be exceeded a little."""
    wanted = {"slice_mode": False} | (
        {"small_image_upsize": "always"} if hasattr(processor, "small_image_upsize") else {}
    )
    for key, value in wanted.items():
        if getattr(processor, key) != value:
            raise VitaError(
                f"preprocessor config: {key}: {getattr(processor, key)!r} is not supported for this encoder yet. Try: set "
                f"{key} to {json.dumps(value)} in preprocessor_config.json"
            )
    budget = Fraction(processor.scale_resolution**2, patch**2)
    return NativeSize(patch, budget, 2 if processor.downsample_mode == "4x" else 4, rule=_minicpm)


def _minicpm(height: int, width: int, native: NativeSize) -> Sizes:
    aspect, side = width / height, math.isqrt(int(native.max_tokens * native.patch**2))
    height = int(side / math.sqrt(aspect))
    rows, cols = (max(1, round(length / native.block)) for length in (height, int(height * aspect)))
    return rows * native.block, cols * native.block


BUDGETS: dict[str, Callable[[Any, int, int], NativeSize]] = {
    function.__name__: function
    for function in (
        between, glm, paddleocr, longest_edge, idefics2, idefics3, granite, kimi, glm5, glm_image, gemma4, minicpm, muse, naflex,
    )
}  # fmt: skip
"""The budgets and rules, from the library's image processor, the patch size, and the patches per side of a block."""
