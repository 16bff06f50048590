"""``build_vision_tower(config)``, as code forked from VITA or LLaVA calls it: the one import that changes."""

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
"""What is read of a config."""


def build_vision_tower(vision_tower_cfg: Any, **kwargs: Any) -> BaseVisionTower:
    """The tower that a config of VITA or LLaVA (any object or mapping) names.

    Read are `mm_vision_tower` or `vision_tower` (a path or a hub id), `use_s2`, `s2_scales`, `mm_vision_select_layer`,
    `mm_vision_select_feature`, `unfreeze_mm_vision_tower` and `delay_load`; `kwargs` go before the config. The family is
    what the tower's own config says, never a part of its path. Every block is built, as the old towers did. Raises
    VitaError, before any weight is read where the config is at fault.
    """
    config = {**_read(vision_tower_cfg), **kwargs}
    name = tower_name(config)
    if name is None:
        raise CheckpointError("the config has neither mm_vision_tower nor vision_tower; set one to a path or a hub id")
    source = locate(expand(name, Path.cwd()))
    side = resolve_tower({"weights": source.weights}, source=source).shape.image_size[0]
    section = {**tower_section(config, side), "weights": source.weights, "layers": "all"}
    return build_resolved(resolve_tower(section, source=source), "cpu")


def _read(config: Any) -> dict[str, Any]:
    """The keys of interest that a mapping or an object has; as attributes of its class, too."""
    if isinstance(config, Mapping):
        return {key: config[key] for key in KEYS if key in config}
    return {key: getattr(config, key) for key in KEYS if hasattr(config, key)}
