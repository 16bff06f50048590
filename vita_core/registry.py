"""Name -> spec and its owner; and the rule that chose a tower."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vita_core import builtin
from vita_core.errors import PluginError, nearest
from vita_core.plugins import Owner, Plugin, Selection, discover, load_plugin, warn_notes
from vita_core.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = ["Choice", "Registered", "Registry", "import_object", "list_towers", "register", "registry", "use_plugins"]

Spec = TypeVar("Spec", TowerSpec, ProjectorSpec, LLMSpec)
KINDS: dict[type, str] = {TowerSpec: "tower", ProjectorSpec: "projector", LLMSpec: "language model"}
CORE = Owner("core", "vita-core", "")
SESSION = Owner("session", "vita_core.register", "")


@dataclass(frozen=True)
class Registered(Generic[Spec]):
    """A spec and who brought it."""

    spec: Spec
    owner: Owner


@dataclass(frozen=True)
class Choice:
    """A tower chosen for a checkpoint, and the rule that chose it (shown by ``vita plan``)."""

    tower: Registered[TowerSpec]
    rule: str


class Registry:
    """All specs of the loaded plugins. Looking a name up is where conflicts and failures are told."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        core = load_plugin(CORE, builtin.__name__, lambda: builtin)
        self.plugins = list(plugins)
        self._specs: list[Registered[Any]] = []
        for plugin in [core, *self.plugins]:
            specs: Iterable[Any] = plugin.specs
            self._specs += [Registered(spec, plugin.owner) for spec in specs]

    def add(self, spec: TowerSpec | ProjectorSpec | LLMSpec) -> None:
        """Register one spec for this process; the same name registered again replaces the earlier one."""
        if type(spec) not in KINDS:
            raise PluginError(f"register() takes a TowerSpec, ProjectorSpec or LLMSpec, not {type(spec).__name__}")
        same = [
            r for r in self._specs if r.owner == SESSION and type(r.spec) is type(spec) and r.spec.name == spec.name
        ]
        added: Any = spec
        self._specs = [r for r in self._specs if r not in same] + [Registered(added, SESSION)]

    def all(self, kind: type[Spec]) -> list[Registered[Spec]]:
        """Every registered spec of one kind, sorted by name."""
        found = [r for r in self._specs if isinstance(r.spec, kind)]
        return sorted(found, key=lambda r: (r.spec.name, r.owner.distribution))

    def find(self, kind: type[Spec], name: str) -> Registered[Spec]:
        """The spec called `name`, or ``distribution/name``.

        Raises PluginError for an unknown name (with what is installed, the nearest match and what failed to load)
        and for a bare name that two distributions claim.
        """
        distribution, _, bare = name.rpartition("/")
        found = [r for r in self.all(kind) if _matches(r.spec, bare) and distribution in ("", r.owner.distribution)]
        if len(found) > 1:
            owners = " and ".join(str(r.owner) for r in found)
            choices = ", ".join(f"{r.owner.distribution}/{bare}" for r in found)
            raise PluginError(f"{KINDS[kind]} {bare!r} is registered by {owners}; write one of: {choices}")
        if not found:
            raise PluginError(self._unknown(kind, name))
        return found[0]

    def choose(self, type_name: str | None, config: Mapping[str, Any], hub_id: str | None, weights: str) -> Choice:
        """The tower for a checkpoint: its explicit type, else its own config, else its known hub id. Never its path.

        Raises PluginError when nothing or more than one claims it, or when an explicit type contradicts the checkpoint.
        """
        claimants = [r for r in self.all(TowerSpec) if r.spec.opens(config)]
        if type_name is not None:
            tower = self.find(TowerSpec, type_name)
            if config.get("model_type") and claimants and tower.spec.name not in {r.spec.name for r in claimants}:
                raise PluginError(
                    f"type {type_name!r} cannot open {weights}: its config.json says model_type "
                    f"{config['model_type']!r}, which is for {_types(claimants)}. Set `type:` to that, or leave it out"
                )
            return Choice(tower, f"explicit `type: {type_name}`")
        rule = f"model_type {config['model_type']!r} in its config.json" if config.get("model_type") else "its layout"
        if not claimants and hub_id is not None:
            claimants = [r for r in self.all(TowerSpec) if hub_id in r.spec.hub_ids]
            rule = f"known hub id {hub_id}"
        if len(claimants) == 1:
            return Choice(claimants[0], rule)
        if claimants:
            raise PluginError(f"{weights}: {_types(claimants)} all open it ({rule}); say which with `type:`")
        said = f" (its config.json says model_type {config['model_type']!r})" if config.get("model_type") else ""
        raise PluginError(f"no tower claims {weights}{said}; set `type:` to one of: {self._names(TowerSpec)}")

    def _unknown(self, kind: type[Spec], name: str) -> str:
        names = [r.spec.name for r in self.all(kind)]
        message = f"unknown {KINDS[kind]} {name!r}.{nearest(name, names)} Registered: {self._names(kind)}."
        failed = [f"{p.owner.plugin} of {p.owner} ({p.reason})" for p in self.plugins if p.status == "failed"]
        distribution = name.rpartition("/")[0]
        if distribution and distribution not in {p.owner.distribution for p in self.plugins}:
            message += f" {distribution} is not there: pip install {distribution} (a module: vita -p {distribution})."
        if failed:
            message += f" Plugins that failed to load: {'; '.join(failed)}."
        blocked = [p.owner.plugin for p in self.plugins if p.status == "blocked"]
        if blocked:
            message += f" Blocked: {', '.join(blocked)}."
        return message

    def _names(self, kind: type[Spec]) -> str:
        return ", ".join(dict.fromkeys(r.spec.name for r in self.all(kind)))


def _matches(spec: TowerSpec | ProjectorSpec | LLMSpec, name: str) -> bool:
    pattern = spec.pattern if isinstance(spec, ProjectorSpec) else None
    return re.fullmatch(pattern, name) is not None if pattern else spec.name == name


def _types(towers: Iterable[Registered[TowerSpec]]) -> str:
    return ", ".join(repr(r.spec.name) for r in towers)


def import_object(path: str, *, requires: str | None, owner: Owner) -> Any:
    """Import ``"module:name"``. Raises PluginError that says what to install, or whose string does not resolve."""
    module, _, name = path.partition(":")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except ImportError as error:
        hint = f" Install what it needs: pip install {requires!r}." if requires else ""
        raise PluginError(f"{owner} cannot import {path!r}: {error}.{hint}") from error
    except AttributeError as error:
        raise PluginError(f"{path!r} of {owner} does not resolve: {error}. Report it to its author") from error


_selection = Selection()


@functools.cache
def registry() -> Registry:
    """The process's registry; plugins are discovered on the first call."""
    plugins = discover(Selection.from_environment(block=_selection.block, modules=_selection.modules))
    warn_notes(plugins)
    return Registry(plugins)


def use_plugins(*, block: Iterable[str] = (), modules: Iterable[str] = ()) -> None:
    """Block entry points or add modules for this process (``--no-plugin``, ``-p``); the registry is built anew."""
    global _selection
    _selection = Selection(block=frozenset(block), modules=tuple(modules))
    registry.cache_clear()


def register(spec: TowerSpec | ProjectorSpec | LLMSpec) -> None:
    """Register a spec in this process, without packaging (a program, a notebook)."""
    registry().add(spec)


def list_towers() -> list[TowerSpec]:
    """Every registered tower's spec, sorted by name."""
    return [r.spec for r in registry().all(TowerSpec)]
