"""Name -> spec and its owner; and the rule that chose a tower."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vita_core.errors import PluginError, nearest
from vita_core.plugins import builtin
from vita_core.plugins.discovery import Plugin, Selection, describe, discover, load_plugin, remedy, warn_notes
from vita_core.plugins.installed import Owner
from vita_core.plugins.references import dangling
from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = [
    "Choice",
    "Registered",
    "Registry",
    "import_object",
    "known_towers",
    "list_towers",
    "register",
    "registry",
    "selection",
    "use_plugins",
]

Spec = TypeVar("Spec", TowerSpec, ProjectorSpec, LLMSpec)
AnySpec = TowerSpec | ProjectorSpec | LLMSpec
KINDS: dict[type, str] = {TowerSpec: "tower", ProjectorSpec: "projector", LLMSpec: "language model"}
CORE = Owner("core", "vita-core", "")
SESSION = Owner("session", "vita_core.register", "")
MORE = "Others come with plugins: pip install the one that brings it; `vita plugins` lists those here."


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

    def add(self, spec: AnySpec) -> None:
        """Register one spec for this process; the same name registered again replaces the earlier one."""
        if type(spec) not in KINDS:
            raise PluginError(f"register() takes a TowerSpec, ProjectorSpec or LLMSpec, not {type(spec).__name__}")
        name, added = (SESSION, type(spec), spec.name), Registered[Any](spec, SESSION)
        self._specs = [*(r for r in self._specs if (r.owner, type(r.spec), r.spec.name) != name), added]

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
            choices = list(dict.fromkeys(f"{r.owner.distribution}/{bare}" for r in found))
            block = f"block one with VITA_PLUGINS_BLOCK={found[0].owner.selector}"
            advice = f"write one of: {', '.join(choices)}" if len(choices) > 1 else block
            raise PluginError(f"{KINDS[kind]} {bare!r} is registered by {owners}; {advice}")
        if not found:
            raise PluginError(self._unknown(kind, name))
        return found[0]

    def choose(self, type_name: str | None, config: Mapping[str, Any], hub_id: str | None, weights: str) -> Choice:
        """The tower for a checkpoint: its explicit type, else its own config, else its known hub id. Never its path.

        Raises PluginError when nothing or more than one claims it, or when an explicit type contradicts the checkpoint.
        """
        claimants = [r for r in self.all(TowerSpec) if _opens(r, config)]
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
        names = self._names(TowerSpec)
        raise PluginError(f"no tower claims {weights}{said}; set `type:` to one of: {names}. {MORE}")

    def problems(self, plugin: Plugin) -> list[str]:
        """What is wrong with what a loaded plugin brings: names that others claim too, strings that do not resolve."""
        found = []
        for spec in plugin.specs:
            kind, block = KINDS[type(spec)], "block it with VITA_PLUGINS_BLOCK="
            found += [
                f"its {kind} {spec.name!r} is also brought by plugin {rival.plugin} of {rival}; write "
                f"`type: {plugin.owner.distribution}/{spec.name}`, or {block}{plugin.owner.selector}"
                for rival in self._rivals(spec)
            ]
            found += [
                f"{reason} (of its {kind} {spec.name!r}); update or uninstall {plugin.owner.distribution}, or "
                f"{block}{plugin.owner.selector}"
                for reason in dangling(spec)
            ]
        return found

    def _rivals(self, spec: AnySpec) -> list[Owner]:
        """Who else brings a spec of the same kind that its name selects."""
        same = (r for r in self._specs if type(r.spec) is type(spec) and r.spec is not spec)
        return [r.owner for r in same if _matches(r.spec, spec.name)]

    def complaints(self) -> list[str]:
        """A line for every plugin that failed and every problem of the others: what ``--strict-plugins`` refuses."""
        lines = []
        for plugin in self.plugins:
            told = [f"{plugin.reason}; {plugin.remedy}"] if plugin.status == "failed" else self.problems(plugin)
            lines += [f"plugin {plugin.owner.plugin} of {plugin.owner}: {line}" for line in told]
        return lines

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
        return f"{message} {MORE}"

    def _names(self, kind: type[Spec]) -> str:
        return ", ".join(dict.fromkeys(r.spec.name for r in self.all(kind)))


def _matches(spec: AnySpec, name: str) -> bool:
    pattern = spec.pattern if isinstance(spec, ProjectorSpec) else None
    return re.fullmatch(pattern, name) is not None if pattern else spec.name == name


def _opens(tower: Registered[TowerSpec], config: Mapping[str, Any]) -> bool:
    """Whether a tower claims a checkpoint. One that fails to say does not; the others must still be asked."""
    try:
        return tower.spec.opens(config)
    except Exception as error:
        warnings.warn(
            f"plugin {tower.owner.plugin} of {tower.owner}: asking its tower {tower.spec.name!r} whether it opens this "
            f"checkpoint failed ({describe(error)}); {remedy(error, tower.owner, tower.spec.factory)}",
            RuntimeWarning,
            stacklevel=3,
        )
        return False


def _types(towers: Sequence[Registered[TowerSpec]]) -> str:
    """Their names as one would write them after ``type:``, with the distribution where the name alone is not enough."""
    names = [r.spec.name for r in towers]
    return ", ".join(
        repr(r.spec.name if names.count(r.spec.name) == 1 else f"{r.owner.distribution}/{r.spec.name}") for r in towers
    )


def import_object(path: str, *, requires: str | None, owner: Owner) -> Any:
    """Import ``"module:name"``. Raises PluginError that says what to install, or whose string does not resolve.

    As at discovery, whatever a plugin's module raises (Ctrl-C apart) is told as that plugin's failure.
    """
    module, _, name = path.partition(":")
    who = f"plugin {owner.plugin} of {owner}"
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except AttributeError as error:
        raise PluginError(
            f"{who}: {path!r} does not resolve: {describe(error)}; {remedy(error, owner, module)}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() and the like, as in load_plugin
        missing = isinstance(error, ImportError) and requires
        advice = f"install what it needs: pip install {requires!r}" if missing else remedy(error, owner, module)
        raise PluginError(f"{who} cannot import {path!r}: {describe(error)}; {advice}") from error


_selection = Selection()


def selection() -> Selection:
    """Which plugins this process loads: what the environment says, and what `use_plugins` added."""
    return Selection.from_environment(block=_selection.block, modules=_selection.modules)


@functools.cache
def registry() -> Registry:
    """The process's registry; plugins are discovered on the first call."""
    plugins = discover(selection())
    warn_notes(plugins)
    return Registry(plugins)


def use_plugins(*, block: Iterable[str] = (), modules: Iterable[str] = ()) -> None:
    """Block entry points or add modules for this process (``--no-plugin``, ``-p``); the registry is built anew."""
    global _selection
    _selection = Selection(block=frozenset(block), modules=tuple(modules))
    registry.cache_clear()


def register(spec: AnySpec) -> None:
    """Register a spec in this process, without packaging (a program, a notebook)."""
    registry().add(spec)


def list_towers() -> list[TowerSpec]:
    """Every registered tower's spec, sorted by name."""
    return [r.spec for r in registry().all(TowerSpec)]


def known_towers() -> dict[str, Mapping[str, Any]]:
    """Every hub id whose published config a registered tower carries."""
    return {hub_id: conf for tower in registry().all(TowerSpec) for hub_id, conf in tower.spec.hub_ids.items()}
