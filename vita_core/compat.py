"""``build_vision_tower(config)`` for code that was forked from VITA or LLaVA.

Such code only has to change the import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.sections import tower_name, tower_section
from vita_core.planning.towers import resolve_tower
from vita_core.towers.tower import BaseVisionTower, build_resolved
from vita_core.weights.sources import expand, locate

__all__ = ["build_vision_tower"]

KEYS = (
    "mm_vision_tower", "vision_tower", "mm_vision_select_layer", "mm_vision_select_feature", "use_s2", "s2", "s2_scales",
    "unfreeze_mm_vision_tower", "unfreeze_vision_tower", "delay_load", "dtype", "torch_dtype",
)  # fmt: skip
"""The keys of a config that are read."""


def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> BaseVisionTower:
    """Build the tower of a VITA or LLaVA config, which can be any object or mapping.

    These keys are read: `mm_vision_tower` or `vision_tower` (a path or a hub id), `use_s2`, `s2_scales`,
    `mm_vision_select_layer`, `mm_vision_select_feature`, `unfreeze_mm_vision_tower` and `delay_load`. `kwargs` override the
    config. The type of the tower comes from the tower's own config, never from its path. All blocks are built, as the old
    towers do. Raises VitaError, before any weight is read if the config is wrong.
    """
    config = {**_read(vision_tower_cfg), **kwargs}
    name = tower_name(config)
    if name is None:
        raise CheckpointError(
            "the config has neither mm_vision_tower nor vision_tower. Try: set mm_vision_tower to a path or a hub id"
        )
    source = locate(expand(name, Path.cwd()))
    side = resolve_tower({"weights": source.weights}, source=source).shape.image_size[0]
    section = {**tower_section(config, side), "weights": source.weights, "layers": "all"}
    return build_resolved(resolve_tower(section, source=source), "cpu")


def _read(config: Any) -> dict[str, Any]:
    """Return the values of `KEYS` that a mapping has, or that are attributes of an object or its class."""
    if isinstance(config, Mapping):
        return {key: config[key] for key in KEYS if key in config}
    return {key: getattr(config, key) for key in KEYS if hasattr(config, key)}
