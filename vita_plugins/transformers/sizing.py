"""The size of pictures whose aspect is kept, and their image processor, from the files of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from vita_core import NativeSize, VitaError, height_width, image_processor
from vita_plugins.transformers.budgets import BUDGETS
from vita_plugins.transformers.natives import Native


def native_size(native: Native, part: Any, whole: Any, preprocessor: Mapping[str, Any]) -> NativeSize:
    """Return the budget of a checkpoint: `part` is the config of the vision model, `whole` that of the whole model.

    Raises VitaError if the preprocessor config does not fit the encoder.
    """
    made, patch, merge = image_processor(preprocessor), part.patch_size, blocks_of(native, part, whole)
    if native.tiles:
        key, fits = ("max_image_size" if hasattr(made, "max_image_size") else "size"), part.image_size
        found = getattr(made, key)
        if isinstance(found, int):
            raise VitaError(
                f"preprocessor config: {type(made).__name__} cuts pictures into tiles, which is not supported for this encoder. "
                f"Try: a preprocessor_config.json whose image_processor_type is {native.processor}"
            )
        found = found["longest_edge" if key == "max_image_size" else "height"]
    else:
        key, found, fits = "patch_size", getattr(made, "patch_size", patch), patch
    # Pixtral's patch size is that of its processor of texts
    if native.rule != "longest_edge" and height_width(found) != (fits, fits):
        raise VitaError(
            f"preprocessor config: {key}: {found} does not fit the encoder's {fits}. Try: correct it in preprocessor_config.json"
        )
    return BUDGETS[native.rule](made, patch, merge)


def blocks_of(native: Native, part: Any, whole: Any) -> int:
    """Return the patches per side of which the sides of a picture are multiples."""
    if native.tiles:
        return int(part.image_size // part.patch_size)
    merge = getattr(part, native.merge) if native.merge else getattr(whole, "spatial_merge_size", 1)
    return int(merge if isinstance(merge, int) else merge[0])


def native_processor(native: Native, part: Any, whole: Any) -> dict[str, Any]:
    """Return the default settings of the model's image processor in transformers, for the patches of the encoder."""
    known = IMAGE_PROCESSOR_MAPPING_NAMES.get(whole.model_type) or {}
    kind = getattr(transformers, known.get("torchvision", native.processor))
    made: dict[str, Any] = {**kind().to_dict(), "resample": int(kind.resample)}
    if native.tiles and "max_image_size" not in made:
        return {**made, "size": {"height": part.image_size, "width": part.image_size}}
    if native.tiles:
        return {
            **made,
            "max_image_size": {"longest_edge": part.image_size},
            "size": {"longest_edge": 4 * part.image_size},
        }
    patch = part.patch_size
    own = {
        "patch_size": {"height": patch, "width": patch} if isinstance(made.get("patch_size"), dict) else patch,
        "merge_size": blocks_of(native, part, whole),
        "slice_mode": False,
        "pooling_kernel_size": blocks_of(native, part, whole),
        "temporal_patch_size": getattr(part, native.frames, 1),
    }
    return made | {key: value for key, value in own.items() if key in made}
