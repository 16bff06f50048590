"""Convert the keys that VITA's and LLaVA's configs share to our config sections.

The layouts, `vita_core.compat` and ``vita migrate`` use these functions.
"""

from __future__ import annotations

import re
from typing import Any

from vita_core.errors import CheckpointError, nearest
from vita_core.layouts.layout import OldConfig, dtype_of

__all__ = ["image_section", "projector_section", "tower_name", "tower_section"]

MERGES = {"flat": "flat", "spatial": "spatial", "spatial_unpad": "spatial_unpad"}


def tower_name(config: OldConfig) -> str | None:
    """Return the config's name of its tower: a path on the author's machine, or a hub id. LLaVA may list one name."""
    name = config.get("mm_vision_tower") or config.get("vision_tower")
    if isinstance(name, list | tuple):
        name = name[0] if name else None
    return None if name is None else str(name)


def tower_section(config: OldConfig, own_size: int | None) -> dict[str, Any]:
    """Return the ``tower:`` keys that the config states. The other keys keep the defaults of the tower's type.

    `own_size` is the input size of the encoder in pixels. By default VITA's and LLaVA's S2 scales are 1, 2 and 3 times it.
    """
    section: dict[str, Any] = {"dtype": dtype_of(config)}
    if config.get("mm_vision_select_layer") is not None:
        section["select_layer"] = config["mm_vision_select_layer"]
    if config.get("mm_vision_select_feature") is not None:
        section["select_feature"] = config["mm_vision_select_feature"]
    if config.get("use_s2") or config.get("s2"):
        section["s2"] = {"scales": s2_scales(config.get("s2_scales"), own_size)}
    unfreeze = config.get("unfreeze_mm_vision_tower") or config.get("unfreeze_vision_tower")
    if unfreeze:
        section["freeze"] = False
    if config.get("delay_load"):
        section["delay_load"] = True
    return section


def s2_scales(stated: Any, own_size: int | None) -> list[int]:
    """Return S2 scales, given as ``"384,768,1152"`` or as a list, in ascending order. Raises CheckpointError."""
    if stated is None:
        if own_size is None:
            raise CheckpointError(
                "s2_scales: missing, although use_s2 is set and the tower's image_size is unknown. Try: add s2_scales to "
                'the config, such as "384,768,1152"'
            )
        return [own_size, 2 * own_size, 3 * own_size]
    parts = stated.split(",") if isinstance(stated, str) else stated
    try:
        return sorted(int(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f's2_scales: not a list of numbers: {stated!r}. Try: numbers, such as "384,768,1152"'
        ) from error


def projector_section(config: OldConfig, default: str) -> dict[str, Any]:
    """Return the ``projector:`` section. A config without a projector type has that of `default`."""
    return {"type": str(config.get("mm_projector_type") or default)}


def image_section(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the ``images:`` section from ``image_aspect_ratio`` and related keys. `tile` is the tower's input size.

    Raises CheckpointError for an unknown ratio or merge type.
    """
    ratio = config.get("image_aspect_ratio") or "square"
    if ratio in ("square", "pad"):
        return {"aspect": ratio}
    if ratio != "anyres":
        known = ("square", "pad", "anyres")
        raise CheckpointError(
            f"config.json: image_aspect_ratio: unknown value: {ratio!r}.{nearest(str(ratio), known)} "
            f"Try: one of {', '.join(known)}"
        )
    merge = config.get("mm_patch_merge_type") or "flat"
    if merge not in MERGES:
        raise CheckpointError(
            f"config.json: mm_patch_merge_type: unknown value: {merge!r}.{nearest(str(merge), MERGES)} "
            f"Try: one of {', '.join(MERGES)}"
        )
    # in LLaVA's configs a pinpoint is (width, height), in pixels
    grids = [(height // tile, width // tile) for width, height in pinpoints(config.get("image_grid_pinpoints"))]
    return {"anyres": {"grids": [list(grid) for grid in grids], "merge": MERGES[merge]}}


def pinpoints(stated: Any) -> list[tuple[int, int]]:
    """Return pairs of pixels from ``[[336, 672], ...]`` or the same as text. Raises CheckpointError for anything else."""
    pairs = re.findall(r"[\[(]\s*(\d+)\s*,\s*(\d+)\s*[\])]", str(stated))
    if not pairs:
        raise CheckpointError(
            f"image_grid_pinpoints: not pairs of pixels: {stated!r}. Try: pairs such as [[336, 672], [672, 336]]"
        )
    return [(int(first), int(second)) for first, second in pairs]
