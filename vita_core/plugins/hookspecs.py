"""The hooks a plugin implements. Every one returns specs and takes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = ["PROJECT", "VITA_API", "hookimpl", "hookspec"]

PROJECT = "vita"
VITA_API = 1
"""The number a plugin states as ``vita_api``; it grows when a hook or spec changes incompatibly."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def vita_towers() -> Iterable[TowerSpec]:  # type: ignore[empty-body]  # pluggy specs have no body
    """Vision towers this plugin offers."""


@hookspec
def vita_projectors() -> Iterable[ProjectorSpec]:  # type: ignore[empty-body]  # as above
    """Projectors this plugin offers."""


@hookspec
def vita_llms() -> Iterable[LLMSpec]:  # type: ignore[empty-body]  # as above
    """Language models this plugin offers."""
