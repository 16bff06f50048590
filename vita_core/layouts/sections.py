"""The keys that VITA's and LLaVA's configs share, as our config sections. `compat` and ``vita migrate`` read them too."""

from __future__ import annotations

import re
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import OldConfig, dtype_of

__all__ = ["image_section", "projector_section", "tower_name", "tower_section"]

MERGES = {"flat": "flat", "spatial": "spatial", "spatial_unpad": "spatial_unpad"}


def tower_name(config: OldConfig) -> str | None:
    """What the config calls its tower: a path on its author's machine, or a hub id. LLaVA's may be a list of one."""
    name = config.get("mm_vision_tower") or config.get("vision_tower")
    if isinstance(name, list | tuple):
        name = name[0] if name else None
    return None if name is None else str(name)


def tower_section(config: OldConfig, own_size: int | None) -> dict[str, Any]:
    """The ``tower:`` keys that the config decides; the rest are the family's defaults.

    `own_size` is the side of the encoder's pictures: VITA's and LLaVA's S2 scales are 1, 2 and 3 times that by default.
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
    """``"384,768,1152"`` or a list, as integers in rising order."""
    if stated is None:
        if own_size is None:
            raise CheckpointError(
                "the config says use_s2 but neither s2_scales nor its tower's image_size; give s2_scales"
            )
        return [own_size, 2 * own_size, 3 * own_size]
    parts = stated.split(",") if isinstance(stated, str) else stated
    try:
        return sorted(int(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f's2_scales {stated!r}: write numbers, such as "384,768,1152"') from error


def projector_section(config: OldConfig) -> dict[str, Any]:
    """The ``projector:`` section; a config that names no type means one linear layer."""
    return {"type": config.get("mm_projector_type") or "linear"}


def image_section(config: OldConfig, tile: int) -> dict[str, Any]:
    """The ``images:`` section from ``image_aspect_ratio`` and its companions; `tile` is the tower's input size.

    Raises CheckpointError for a ratio that is neither square, pad nor anyres.
    """
    ratio = config.get("image_aspect_ratio") or "square"
    if ratio in ("square", "pad"):
        return {"aspect": ratio}
    if ratio != "anyres":
        raise CheckpointError(f"image_aspect_ratio {ratio!r} is none of square, pad and anyres")
    merge = config.get("mm_patch_merge_type") or "flat"
    if merge not in MERGES:
        raise CheckpointError(f"mm_patch_merge_type {merge!r} is none of {', '.join(MERGES)}")
    # LLaVA writes (width, height), in pixels
    grids = [(height // tile, width // tile) for width, height in pinpoints(config.get("image_grid_pinpoints"))]
    return {"anyres": {"grids": [list(grid) for grid in grids], "merge": MERGES[merge]}}


def pinpoints(stated: Any) -> list[tuple[int, int]]:
    """``[[336, 672], ...]``, or the same as text. Raises CheckpointError for anything else."""
    pairs = re.findall(r"[\[(]\s*(\d+)\s*,\s*(\d+)\s*[\])]", str(stated))
    if not pairs:
        raise CheckpointError(f"image_grid_pinpoints {stated!r}: expected pairs of pixels, such as [[336, 672]]")
    return [(int(first), int(second)) for first, second in pairs]
