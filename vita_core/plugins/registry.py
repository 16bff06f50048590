"""The registry: it maps a name to its spec and owner."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vita_core import interrupts
from vita_core.errors import PluginError, nearest
from vita_core.plugins import builtin
from vita_core.plugins.choosing import MORE, Choice, Registered, Spec, choose
from vita_core.plugins.discovery import (
    AnySpec,
    Plugin,
    Selection,
    describe,
    discover,
    load_plugin,
    remedy,
    warn_notes,
)
from vita_core.plugins.installed import Owner
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.references import dangling
from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = [
    "KINDS",
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
    "version_of",
]

KINDS: dict[type, str] = {
    TowerSpec: "tower",
    ProjectorSpec: "projector",
    ReductionSpec: "reduction",
    LLMSpec: "language model",
}
CORE = Owner("core", "vita-core", "")
"""The owner of the built-in parts. For its version, which is slow to look up, see `version_of`."""
SESSION = Owner("session", "vita_core.register", "")


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
                f"register() got a {type(spec).__name__}: {spec!r}. Try: a TowerSpec, ProjectorSpec, ReductionSpec or LLMSpec"
            )
        name, added = (SESSION, type(spec), spec.name), Registered[Any](spec, SESSION)
        self._specs = [*(r for r in self._specs if (r.owner, type(r.spec), r.spec.name) != name), added]

    def all(self, kind: type[Spec]) -> list[Registered[Spec]]:
        """Return every registered spec of one kind, sorted by name."""
        found = [r for r in self._specs if isinstance(r.spec, kind)]
        return sorted(found, key=lambda r: (r.spec.name, r.owner.distribution, r.owner.plugin))

    def matching(self, kind: type[Spec], name: str) -> list[Registered[Spec]]:
        """Return every spec called `name` or ``distribution/name``."""
        distribution, _, bare = name.rpartition("/")
        return [r for r in self.all(kind) if _matches(r.spec, bare) and distribution in ("", r.owner.distribution)]

    def find(self, kind: type[Spec], name: str) -> Registered[Spec]:
        """Return the spec called `name` or ``distribution/name``.

        Raises PluginError for an unknown name, and for a bare name that is registered more than once.
        """
        found, bare = self.matching(kind, name), name.rpartition("/")[2]
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

        Towers with `TowerSpec.fallback` are asked last. The path never decides. Raises PluginError if no tower or more than
        one opens the checkpoint, or if `type_name` contradicts the checkpoint's config.
        """
        named = None if type_name is None else (type_name, self.find(TowerSpec, type_name))
        return choose(self.all(TowerSpec), named, config, hub_id, weights)

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
        interrupts.raise_if_asked()
        missing = isinstance(error, ImportError) and requires
        advice = f"`pip install {requires!r}`" if missing else remedy(error, owner, module)
        raise PluginError(
            f"plugin {owner.plugin} of {owner} cannot import {path!r}: {describe(error)}. Try: {advice}"
        ) from error


_selection = Selection()


def version_of(owner: Owner) -> str:
    """Return the version of the distribution of a part, also of a built-in one. A part of the session has none."""
    if owner != CORE:
        return owner.version
    from importlib.metadata import version

    return version(owner.distribution)


def selection() -> Selection:
    """Return which plugins this process loads: those of the environment variables, and those set by `use_plugins`."""
    return Selection.from_environment(block=_selection.block, modules=_selection.modules)


@functools.cache
def registry() -> Registry:
    """Return the registry of this process. The first call discovers the plugins."""
    plugins = discover(selection())
    _warn_unknown(selection(), plugins)
    warn_notes(plugins)
    return Registry(plugins)


def _warn_unknown(selection: Selection, plugins: Sequence[Plugin]) -> None:
    """Warn of a name in `selection` that no plugin has: a typing error would block nothing."""
    known = {name for plugin in plugins for name in (plugin.owner.plugin, plugin.owner.selector)}
    for name in sorted((selection.block | (selection.only or frozenset())) - known):
        warnings.warn(
            f"VITA_PLUGINS_BLOCK, VITA_PLUGINS_ONLY or --no-plugin: no such plugin: {name!r}.{nearest(name, known)} "
            "Try: a name that `vita plugins` lists",
            RuntimeWarning,
            stacklevel=3,
        )


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
