"""Resolve a tower of one encoder or of several. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core.config.schema import TowerConfig
from vita_core.config.validation import validate
from vita_core.errors import ConfigError
from vita_core.layouts.parts import Part
from vita_core.planning.encoders import ResolvedTower, resolve_encoder
from vita_core.planning.fused import resolve_fused
from vita_core.weights.sources import Source

__all__ = ["ResolvedTower", "resolve_tower"]


def resolve_tower(
    config: TowerConfig | Mapping[str, Any],
    *,
    offline: bool = False,
    source: Source | None = None,
    part: Part | None = None,
    marks: Mapping[str, str] | None = None,
) -> ResolvedTower:
    """Choose the tower, and check its config against the geometry of the checkpoint. Several `towers` give a `ResolvedFused`.

    With `offline`, the published geometry of known hub ids is used without a request to the hub (``vita plan``). A caller
    that has already found the checkpoint passes it as `source`, and `part` if the weights are inside a larger checkpoint.
    `marks` says where the keys of `config` are set.
    Raises ConfigError, PluginError or CheckpointError before any weight is read.
    """
    settings = config if isinstance(config, TowerConfig) else validate(TowerConfig, config)
    if settings.towers is not None:
        return resolve_fused(settings, offline=offline, marks=marks or {})
    if settings.device is not None:
        raise ConfigError(
            f"tower.device: only one of several `towers` has a device of its own: {settings.device!r}. "
            "Try: the key `device` beside the section `tower`"
        )
    return resolve_encoder(settings, offline=offline, source=source, part=part, marks=marks)
