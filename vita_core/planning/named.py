"""What a name that is tested is: a registered tower, reduction or projector, or a config. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_core.config.configfiles import config_file, shipped_configs
from vita_core.errors import PluginError, nearest
from vita_core.planning.described import named_tower
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec, TowerSpec

__all__ = ["TESTED", "check_named", "kind_of"]

TESTED: Mapping[str, type[Any]] = {"tower": TowerSpec, "reduction": ReductionSpec, "projector": ProjectorSpec}
"""What the conformance kit tests, and its specs."""


def kind_of(name: str, stated: str | None = None) -> str:
    """Return ``tower``, ``reduction`` or ``projector``: the kind that is `stated`, or else that of the registered `name`.

    A config and an unknown name count as a tower, unless the name is more like that of another kind. Raises PluginError if
    `name` is of several kinds.
    """
    if stated is not None:
        return stated
    if name.endswith((".yaml", ".yml")) or name in shipped_configs():
        return "tower"
    found = [kind for kind, spec in TESTED.items() if registry().matching(spec, name)]
    if len(found) > 1:
        choices = " or ".join(f"`vita check --kind {kind} {name}`" for kind in found)
        raise PluginError(f"the name of a {' and of a '.join(found)}: {name!r}. Try: {choices}")
    if found:
        return found[0]
    if Path(name).expanduser().exists():
        return "tower"
    names = {kind: [r.spec.name for r in registry().all(spec)] for kind, spec in TESTED.items()}
    closest = nearest(name, [known for kind in names for known in names[kind]])
    return next(kind for kind in names if nearest(name, names[kind]) == closest) if closest else "tower"


def check_named(name: str, kind: str) -> None:
    """Raise VitaError if `name` is neither registered as a `kind` nor, for a tower, a config that exists."""
    if kind != "tower":
        registry().find(TESTED[kind], name)
    elif named_tower(name) is None:
        config_file(name)
