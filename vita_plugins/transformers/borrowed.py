"""How the image processors of transformers size pictures whose aspect is kept: the rules that are functions of transformers."""

from __future__ import annotations

import importlib
import math
from fractions import Fraction
from typing import Any

from vita_core import NativeSize, PictureError, VitaError

Sizes = tuple[int, int]


def granite(processor: Any, patch: int, merge: int) -> NativeSize:
    """Granite Docling's: the fewest and most tiles, and the grid of tiles that is nearest to the aspect. A block is a tile."""
    if processor.dense_max_patches:
        raise VitaError(
            f"preprocessor config: dense_max_patches: {processor.dense_max_patches}: a second budget for some pages is not "
            "supported yet. Try: set dense_max_patches to 0 in preprocessor_config.json"
        )
    most = processor.max_patches if processor.crop_to_patches else 1
    return NativeSize(patch, most * merge**2, merge, min(processor.min_patches, most) * merge**2, rule=_granite)


def _granite(height: int, width: int, native: NativeSize) -> Sizes:
    library = importlib.import_module("transformers.models.granite_docling.image_processing_pil_granite_docling")
    tile, (least, most) = (
        native.block,
        (int(count) // native.merge**2 for count in (native.min_tokens, native.max_tokens)),
    )
    cols, rows = library.get_optimal_tiled_canvas((height, width), (tile, tile), least, most)
    return rows * tile, cols * tile


def glm5(processor: Any, patch: int, merge: int) -> NativeSize:
    """GLM-5's: the fewest and most blocks. A picture keeps its aspect; what is missing to whole blocks is black."""
    least, most = (tokens * merge**2 for tokens in (processor.min_image_tokens, processor.max_image_tokens))
    return NativeSize(patch, most, merge, least, rule=_glm5, resizes=_glm5_resizes)


def _glm5(height: int, width: int, native: NativeSize) -> Sizes:
    library = importlib.import_module("transformers.models.glm5_next.image_processing_glm5_next")
    least, most = (int(tokens) // native.merge**2 for tokens in (native.min_tokens, native.max_tokens))
    size: Sizes = library.smart_resize(2, height, width, 2, native.block, least, most)
    return size


def _glm5_resizes(height: int, width: int, native: NativeSize) -> list[Sizes]:
    high, wide = _glm5(height, width, native)
    scale = min(high / height, wide / width)
    if height * width >= native.block**2 * (native.min_tokens // native.merge**2):
        scale = min(1.0, scale)
    return [(max(1, min(high, math.floor(height * scale))), max(1, min(wide, math.floor(width * scale))))]


def glm_image(processor: Any, patch: int, merge: int) -> NativeSize:
    """GLM-Image's: half of a picture whose shortest and longest edges are in bounds."""
    least, most = (Fraction(processor.size[edge], 4 * patch**2) for edge in ("shortest_edge", "longest_edge"))
    return NativeSize(patch, most, merge, least, rule=_glm_image, by_edge=True)


def _glm_image(height: int, width: int, native: NativeSize) -> Sizes:
    library = importlib.import_module("transformers.models.glm_image.image_processing_pil_glm_image")
    least, most = (int(tokens * 4 * native.patch**2) for tokens in (native.min_tokens, native.max_tokens))
    try:
        size: Sizes = library.smart_resize(height, width, native.block, least, most)
    except ValueError as error:
        raise PictureError(
            f"a picture of {width} x {height} pixels is too small or too narrow for GLM-Image: {error}. Try: a picture of at "
            f"least {native.block} x {native.block} pixels whose longer side is at most 4 shorter ones"
        ) from None
    return size


def gemma4(processor: Any, patch: int, merge: int) -> NativeSize:
    """Gemma 4's: the most blocks, which every picture fills."""
    return NativeSize(patch, processor.max_soft_tokens * merge**2, merge, rule=_gemma4)


def _gemma4(height: int, width: int, native: NativeSize) -> Sizes:
    library = importlib.import_module("transformers.models.gemma4.image_processing_pil_gemma4")
    most = int(native.max_tokens)
    size: Sizes = library.get_aspect_ratio_preserving_size(height, width, native.patch, most, native.merge)
    return size


def muse(processor: Any, patch: int, merge: int) -> NativeSize:
    """Muse's: the most blocks, and the grid of blocks that is nearest to the aspect."""
    return NativeSize(patch, processor.max_image_tokens * merge**2, merge, rule=_muse)


def _muse(height: int, width: int, native: NativeSize) -> Sizes:
    library = importlib.import_module("transformers.models.muse_glimmer.image_processing_muse_glimmer")
    size: Sizes = library.smart_resize(height, width, native.block, int(native.max_tokens) // native.merge**2)
    return size
