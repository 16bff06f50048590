"""The registry: it maps a name to its spec and owner, and chooses the tower that opens a checkpoint."""

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
MORE = "or install the plugin that provides it (`vita plugins` lists the installed ones)"


@dataclass(frozen=True)
class Registered(Generic[Spec]):
    """A spec and its owner."""

    spec: Spec
    owner: Owner


@dataclass(frozen=True)
class Choice:
    """The tower chosen for a checkpoint, and the rule that chose it (``vita plan`` prints it)."""

    tower: Registered[TowerSpec]
    rule: str


class Registry:
    """All specs of the loaded plugins. Conflicts and failures are reported when a name is looked up."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        core = load_plugin(CORE, builtin.__name__, lambda: builtin)
        self.plugins = list(plugins)
        self._specs: list[Registered[Any]] = []
        for plugin in [core, *self.plugins]:
            specs: Iterable[Any] = plugin.specs
            self._specs += [Registered(spec, plugin.owner) for spec in specs]

    def add(self, spec: AnySpec) -> None:
        """Register one spec for this process. Registering the same name again replaces the earlier spec."""
        if type(spec) not in KINDS:
            raise PluginError(
                f"register() got a {type(spec).__name__}: {spec!r}. Try: a TowerSpec, ProjectorSpec or LLMSpec"
            )
        name, added = (SESSION, type(spec), spec.name), Registered[Any](spec, SESSION)
        self._specs = [*(r for r in self._specs if (r.owner, type(r.spec), r.spec.name) != name), added]

    def all(self, kind: type[Spec]) -> list[Registered[Spec]]:
        """Return every registered spec of one kind, sorted by name."""
        found = [r for r in self._specs if isinstance(r.spec, kind)]
        return sorted(found, key=lambda r: (r.spec.name, r.owner.distribution))

    def find(self, kind: type[Spec], name: str) -> Registered[Spec]:
        """Return the spec called `name` or ``distribution/name``.

        Raises PluginError for an unknown name, and for a bare name that is registered more than once.
        """
        distribution, _, bare = name.rpartition("/")
        found = [r for r in self.all(kind) if _matches(r.spec, bare) and distribution in ("", r.owner.distribution)]
        if len(found) > 1:
            owners = " and ".join(str(r.owner) for r in found)
            choices = list(dict.fromkeys(f"`type: {r.owner.distribution}/{bare}`" for r in found))
            block = f"block one with VITA_PLUGINS_BLOCK={found[0].owner.selector}"
            advice = " or ".join(choices) if len(choices) > 1 else block
            raise PluginError(f"{KINDS[kind]} registered more than once: {bare!r}, by {owners}. Try: {advice}")
        if not found:
            raise PluginError(self._unknown(kind, name))
        return found[0]

    def choose(self, type_name: str | None, config: Mapping[str, Any], hub_id: str | None, weights: str) -> Choice:
        """Choose the tower for a checkpoint: by `type_name`, else by the checkpoint's `config`, else by its known `hub_id`.

        The path never decides. Raises PluginError if no tower or more than one opens the checkpoint, or if `type_name`
        contradicts the checkpoint's config.
        """
        claimants = [r for r in self.all(TowerSpec) if _opens(r, config)]
        model_type = config.get("model_type")
        stated = f"model_type {model_type!r} in its config.json" if model_type else ""
        if type_name is not None:
            tower = self.find(TowerSpec, type_name)
            if model_type and claimants and tower.spec.name not in {r.spec.name for r in claimants}:
                wrong = f"{type_name!r} cannot open {weights} with {stated}"
                raise PluginError(f"tower.type: {wrong}. Try: {_types(claimants)}, or leave `type` out")
            return Choice(tower, f"explicit `type: {type_name}`")
        rule = stated or "its layout"
        if not claimants and hub_id is not None:
            claimants = [r for r in self.all(TowerSpec) if hub_id in r.spec.hub_ids]
            rule = f"known hub id {hub_id}"
        if len(claimants) == 1:
            return Choice(claimants[0], rule)
        if claimants:
            raise PluginError(f"{len(claimants)} towers open {weights}, by {rule}. Try: {_types(claimants)}")
        wrong = f"no registered tower opens {weights}" + (f" with {stated}" if stated else "")
        raise PluginError(f"{wrong}. Try: set tower.type to one of {self._names(TowerSpec)}, {MORE}")

    def problems(self, plugin: Plugin) -> list[str]:
        """Return a line for each problem of a loaded plugin: a name registered twice, a string that does not resolve."""
        found, block = [], f"block it with VITA_PLUGINS_BLOCK={plugin.owner.selector}"
        for spec in plugin.specs:
            name = f"its {KINDS[type(spec)]} {spec.name!r}"
            choose = f"`type: {plugin.owner.distribution}/{spec.name}`, or {block}"
            found += [
                f"{name} is also registered by plugin {r.plugin} of {r}. Try: {choose}" for r in self._rivals(spec)
            ]
            update = f"update or uninstall {plugin.owner.distribution}, or {block}"
            found += [f"{name}: {reason} Try: {update}" for reason in dangling(spec)]
        return found

    def _rivals(self, spec: AnySpec) -> list[Owner]:
        """Return the owners of other specs of the same kind that this spec's name selects too."""
        same = (r for r in self._specs if type(r.spec) is type(spec) and r.spec is not spec)
        return [r.owner for r in same if _matches(r.spec, spec.name)]

    def complaints(self) -> list[str]:
        """Return a line for each failed plugin and for each problem of the others: the errors of ``--strict-plugins``."""
        lines = []
        for plugin in self.plugins:
            failed = plugin.status == "failed"
            problems = [f"{plugin.reason}. Try: {plugin.remedy}"] if failed else self.problems(plugin)
            lines += [f"plugin {plugin.owner.plugin} of {plugin.owner}: {line}" for line in problems]
        return lines

    def _unknown(self, kind: type[Spec], name: str) -> str:
        message = f"unknown {KINDS[kind]}: {name!r}.{nearest(name, [r.spec.name for r in self.all(kind)])}"
        failed = [f"{p.owner.plugin} of {p.owner} ({p.reason})" for p in self.plugins if p.status == "failed"]
        if failed:
            message += f" Plugins that failed to load: {'; '.join(failed)}."
        blocked = [p.owner.plugin for p in self.plugins if p.status == "blocked"]
        if blocked:
            message += f" Blocked plugins: {', '.join(blocked)}."
        distribution = name.rpartition("/")[0]
        if distribution and distribution not in {p.owner.distribution for p in self.plugins}:
            advice = f"`pip install {distribution}`, or `-p {distribution}` after `vita` if it is a module"
            return f"{message} {distribution} is not installed. Try: {advice}"
        return f"{message} Try: one of {self._names(kind)}, {MORE}"

    def _names(self, kind: type[Spec]) -> str:
        return ", ".join(dict.fromkeys(r.spec.name for r in self.all(kind)))


def _matches(spec: AnySpec, name: str) -> bool:
    pattern = spec.pattern if isinstance(spec, ProjectorSpec) else None
    return re.fullmatch(pattern, name) is not None if pattern else spec.name == name


def _opens(tower: Registered[TowerSpec], config: Mapping[str, Any]) -> bool:
    """Return whether a tower opens a checkpoint. An error counts as no, so that the other towers are still asked."""
    try:
        return tower.spec.opens(config)
    except Exception as error:
        warnings.warn(
            f"plugin {tower.owner.plugin} of {tower.owner}: `recognises` of its tower {tower.spec.name!r} failed: "
            f"{describe(error)}. Try: {remedy(error, tower.owner, tower.spec.factory)}",
            RuntimeWarning,
            stacklevel=3,
        )
        return False


def _types(towers: Sequence[Registered[TowerSpec]]) -> str:
    """Return the ``type:`` lines that select `towers`, with the distribution if the name alone is ambiguous."""
    names = [r.spec.name for r in towers]
    unique = [r.spec.name if names.count(r.spec.name) == 1 else f"{r.owner.distribution}/{r.spec.name}" for r in towers]
    return " or ".join(f"`type: {name}`" for name in unique)


def import_object(path: str, *, requires: str | None, owner: Owner) -> Any:
    """Import ``"module:name"``. Every exception of the module except Ctrl-C is raised as PluginError naming the plugin.

    If an import fails, the message names the package to install (`requires`).
    """
    module, _, name = path.partition(":")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() and the like, as in load_plugin
        missing = isinstance(error, ImportError) and requires
        advice = f"`pip install {requires!r}`" if missing else remedy(error, owner, module)
        raise PluginError(
            f"plugin {owner.plugin} of {owner} cannot import {path!r}: {describe(error)}. Try: {advice}"
        ) from error


_selection = Selection()


def selection() -> Selection:
    """Return which plugins this process loads: those of the environment variables, and those set by `use_plugins`."""
    return Selection.from_environment(block=_selection.block, modules=_selection.modules)


@functools.cache
def registry() -> Registry:
    """Return the registry of this process. The first call discovers the plugins."""
    plugins = discover(selection())
    warn_notes(plugins)
    return Registry(plugins)


def use_plugins(*, block: Iterable[str] = (), modules: Iterable[str] = ()) -> None:
    """Block plugins or load modules in this process (``--no-plugin``, ``-p``). The registry is built again."""
    global _selection
    _selection = Selection(block=frozenset(block), modules=tuple(modules))
    registry.cache_clear()


def register(spec: AnySpec) -> None:
    """Register a spec in this process without a package, in a program or a notebook."""
    registry().add(spec)


def list_towers() -> list[TowerSpec]:
    """Return the spec of every registered tower, sorted by name."""
    return [r.spec for r in registry().all(TowerSpec)]


def known_towers() -> dict[str, Mapping[str, Any]]:
    """Return the published configs of all hub ids that the registered towers know."""
    return {hub_id: conf for tower in registry().all(TowerSpec) for hub_id, conf in tower.spec.hub_ids.items()}
