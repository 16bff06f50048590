"""The hooks that a plugin implements. Each hook takes no arguments and returns specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vita_core.plugins.reductions import ReductionSpec
    from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = ["PROJECT", "VITA_API", "hookimpl", "hookspec"]

PROJECT = "vita"
VITA_API = 1
"""The API version that a plugin states as ``vita_api``. It increases when a hook or a spec changes incompatibly."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def vita_towers() -> Iterable[TowerSpec]:  # type: ignore[empty-body]  # a pluggy hook specification has no body
    """Return the vision towers of this plugin."""


@hookspec
def vita_projectors() -> Iterable[ProjectorSpec]:  # type: ignore[empty-body]  # as above
    """Return the projectors of this plugin."""


@hookspec
def vita_reductions() -> Iterable[ReductionSpec]:  # type: ignore[empty-body]  # as above
    """Return the reductions of this plugin."""


@hookspec
def vita_llms() -> Iterable[LLMSpec]:  # type: ignore[empty-body]  # as above
    """Return the language models of this plugin."""
