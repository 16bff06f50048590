"""Choose the tower that opens a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vita_core.errors import PluginError
from vita_core.plugins.discovery import describe, remedy
from vita_core.plugins.installed import Owner
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = ["MORE", "Choice", "Registered", "Spec", "choose"]

Spec = TypeVar("Spec", TowerSpec, ProjectorSpec, ReductionSpec, LLMSpec)
MORE = "or install the plugin that provides it (`vita plugins` lists the installed ones)"


@dataclass(frozen=True)
class Registered(Generic[Spec]):
    """A spec and its owner."""

    spec: Spec
    owner: Owner


Tower = Registered[TowerSpec]


@dataclass(frozen=True)
class Choice:
    """The tower chosen for a checkpoint, and the rule that chose it (``vita plan`` prints it)."""

    tower: Tower
    rule: str


def choose(
    towers: Sequence[Tower],
    named: tuple[str, Tower] | None,
    config: Mapping[str, Any],
    hub_id: str | None,
    weights: str,
) -> Choice:
    """Choose one of `towers` for a checkpoint. `named` is the value of ``type:`` and the tower with that name.

    Towers with `TowerSpec.fallback` are asked only if no other tower opens the checkpoint, by its config or its hub id.
    Raises PluginError as `Registry.choose` says.
    """
    model_type = config.get("model_type")
    stated = f"model_type {model_type!r} in its config.json" if model_type else ""
    claimants = _claimants(towers, config, fallback=False)
    if named is not None:
        type_name, tower = named
        contradicts = model_type and claimants and tower.spec.name not in {r.spec.name for r in claimants}
        if contradicts and not (tower.spec.fallback and _opens(tower, config)):
            wrong = f"{type_name!r} cannot open {weights} with {stated}"
            raise PluginError(f"tower.type: {wrong}. Try: {_types(claimants)}, or leave `type` out")
        return Choice(tower, f"explicit `type: {type_name}`")
    rule = stated or "its layout"
    if not claimants and hub_id is not None:
        claimants = [r for r in towers if hub_id in r.spec.hub_ids]
        rule = f"known hub id {hub_id}" if claimants else rule
    if not claimants:
        claimants = _claimants(towers, config, fallback=True)
        rule += f", by the fallback of tower {claimants[0].spec.name!r}" if len(claimants) == 1 else ""
    if len(claimants) == 1:
        return Choice(claimants[0], rule)
    if claimants:
        raise PluginError(f"{len(claimants)} towers open {weights}, by {rule}. Try: {_types(claimants)}")
    wrong = f"no registered tower opens {weights}" + (f" with {stated}" if stated else "")
    names = ", ".join(dict.fromkeys(r.spec.name for r in towers))
    raise PluginError(f"{wrong}. Try: set tower.type to one of {names}, {MORE}")


def _claimants(towers: Sequence[Tower], config: Mapping[str, Any], *, fallback: bool) -> list[Tower]:
    """Return the towers that open a checkpoint with this config, among those whose `fallback` is as given."""
    return [r for r in towers if r.spec.fallback == fallback and _opens(r, config)]


def _opens(tower: Tower, config: Mapping[str, Any]) -> bool:
    """Return whether a tower opens a checkpoint. An error counts as no, so that the other towers are still asked."""
    try:
        return tower.spec.opens(config)
    except Exception as error:
        warnings.warn(
            f"plugin {tower.owner.plugin} of {tower.owner}: `recognises` of its tower {tower.spec.name!r} failed: "
            f"{describe(error)}. Try: {remedy(error, tower.owner, tower.spec.factory)}",
            RuntimeWarning,
            stacklevel=5,
        )
        return False


def _types(towers: Sequence[Tower]) -> str:
    """Return the ``type:`` lines that select `towers`, with the distribution if the name alone is ambiguous."""
    names = [r.spec.name for r in towers]
    unique = [r.spec.name if names.count(r.spec.name) == 1 else f"{r.owner.distribution}/{r.spec.name}" for r in towers]
    return " or ".join(f"`type: {name}`" for name in unique)
