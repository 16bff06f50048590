"""Discovery: entry points are read, blocked names dropped, the rest imported one by one; a failure is data.

pluggy's own `load_setuptools_entrypoints` stops at the first plugin that fails and skips duplicate names silently,
and one raising hook aborts the call for all. Each plugin therefore gets a manager of its own: what it breaks is its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pluggy

from vita_core.errors import PluginError
from vita_core.plugins import hookspecs
from vita_core.plugins.hookspecs import PROJECT, VITA_API
from vita_core.plugins.installed import Owner, Unreadable, installed, owner_of
from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = [
    "GROUP",
    "HOOKS",
    "Plugin",
    "Selection",
    "describe",
    "discover",
    "load_plugin",
    "remedy",
    "warn_notes",
]

GROUP = "vita"
HOOKS: dict[str, type] = {"vita_towers": TowerSpec, "vita_projectors": ProjectorSpec, "vita_llms": LLMSpec}
Status = Literal["loaded", "failed", "blocked"]


@dataclass(frozen=True)
class Plugin:
    """One plugin and what became of it. `remedy` says how to mend a failure; `notes` are warnings that do not stop it."""

    owner: Owner
    module: str
    status: Status
    reason: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()
    specs: tuple[TowerSpec | ProjectorSpec | LLMSpec, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which plugins to load. Names are entry-point names or ``distribution:name``; `modules` need no packaging."""

    block: frozenset[str] = field(default_factory=frozenset)
    only: frozenset[str] | None = None
    modules: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, *, block: Iterable[str] = (), modules: Iterable[str] = ()) -> Selection:
        """The ``VITA_PLUGINS_BLOCK``, ``VITA_PLUGINS_ONLY`` and ``VITA_PLUGINS`` variables, and what is added to them."""
        only = _names("VITA_PLUGINS_ONLY")
        return cls(
            block=frozenset([*_names("VITA_PLUGINS_BLOCK"), *block]),
            only=frozenset(only) if "VITA_PLUGINS_ONLY" in os.environ else None,
            modules=tuple(dict.fromkeys([*_names("VITA_PLUGINS"), *modules])),
        )

    def blocked(self, owner: Owner) -> str:
        """Why `owner` is not to be imported, or an empty string."""
        names = {owner.plugin, owner.selector}
        if names & self.block:
            return "named in VITA_PLUGINS_BLOCK or --no-plugin"
        if self.only is not None and not names & self.only:
            return "not named in VITA_PLUGINS_ONLY"
        return ""


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def discover(selection: Selection) -> list[Plugin]:
    """Every plugin installed or named, in a stable order (distribution, then name), loaded, failed or blocked."""
    points, unreadable = installed(GROUP)
    points.sort(key=lambda point: (owner_of(point).distribution, point.name))
    plugins = [_from_entry_point(point, selection) for point in points]
    plugins += [_unreadable(broken, selection) for broken in unreadable]
    for module in selection.modules:
        owner = Owner(module, module, "")
        plugins.append(load_plugin(owner, module, partial(importlib.import_module, module)))
    return plugins


def _from_entry_point(point: EntryPoint, selection: Selection) -> Plugin:
    owner = owner_of(point)
    if reason := selection.blocked(owner):
        return Plugin(owner, point.value, "blocked", reason)
    return load_plugin(owner, point.value, point.load)


def _unreadable(broken: Unreadable, selection: Selection) -> Plugin:
    """What stands for a distribution of which not even the metadata can be read."""
    if reason := selection.blocked(broken.owner):
        return Plugin(broken.owner, "", "blocked", reason)
    reason = f"its metadata cannot be read ({broken.reason}): left behind by an uninstalled package, or damaged"
    remedy = f"delete {broken.folder} and install the package again, or block it with VITA_PLUGINS_BLOCK={broken.owner.selector}"
    return Plugin(broken.owner, "", "failed", reason, remedy)


def load_plugin(owner: Owner, module: str, load: Callable[[], Any]) -> Plugin:
    """Import one plugin and ask its hooks, keeping every failure (except Ctrl-C) inside the returned `Plugin`."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not stand in our own output
            plugin = load()
            notes = _check_api(plugin)
            _check_hook_names(plugin)
            specs = tuple(_collect(_managed(plugin, owner.plugin)))
        return Plugin(owner, module, "loaded", notes=notes, specs=specs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit(), a Rust panic or a test outcome at import is not an Exception
        return Plugin(owner, module, "failed", describe(error), remedy(error, owner, module))


def _check_api(plugin: Any) -> tuple[str, ...]:
    stated = getattr(plugin, "vita_api", None)
    if stated is None:
        raise PluginError(f"states no `vita_api`; add `vita_api = {VITA_API}` to the plugin module")
    if not isinstance(stated, int) or not VITA_API - 1 <= stated <= VITA_API or stated < 1:
        raise PluginError(f"is written for vita_api {stated!r}; this vita-core speaks {VITA_API}")
    if stated < VITA_API:
        return (
            f"is written for vita_api {stated}; this vita-core speaks {VITA_API} and still reads {stated}, the next "
            "number will not: update the plugin",
        )
    return ()


def _check_hook_names(plugin: Any) -> None:
    """Misspelled hooks, marked or not, and unmarked ones; pluggy would pass all of them over."""
    for name in dir(plugin):
        value = getattr(plugin, name, None)
        if name.startswith("vita_") and callable(value) and name not in HOOKS:
            raise PluginError(f"defines {name}, which is no hook; the hooks are {', '.join(HOOKS)}")
        if name in HOOKS and not hasattr(value, f"{PROJECT}_impl"):
            raise PluginError(f"defines {name} without the `@hookimpl` marker; import it from vita_core")


class _HookSpecs:
    """The hooks and nothing else: pluggy looks at every name of a module, once for each manager."""

    def __init__(self) -> None:
        vars(self).update({name: getattr(hookspecs, name) for name in HOOKS})

    def __dir__(self) -> Iterable[str]:
        return list(HOOKS)


def _managed(plugin: Any, name: str) -> pluggy.PluginManager:
    """A manager of this plugin alone. Raises PluginError for a hook of another signature, or of no known name."""
    manager, specs = pluggy.PluginManager(PROJECT), _HookSpecs()
    manager.add_hookspecs(specs)  # type: ignore[arg-type]  # it takes any object, but is typed for modules and classes
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split())) from error
    return manager


def _collect(manager: pluggy.PluginManager) -> Iterable[TowerSpec | ProjectorSpec | LLMSpec]:
    for hook, kind in HOOKS.items():
        for result in getattr(manager.hook, hook)():
            if not isinstance(result, Sequence):
                raise PluginError(f"{hook} returned {type(result).__name__}; return a list of {kind.__name__}")
            for spec in result:
                if not isinstance(spec, kind):
                    raise PluginError(f"{hook} returned {spec!r}; it must return {kind.__name__} objects")
                yield spec  # type: ignore[misc]  # HOOKS' types have only `type` in common


def describe(error: BaseException) -> str:
    """One line: the error's type and the first line of its message."""
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, PluginError) else f"{type(error).__name__}: {first}".rstrip(": ")


def remedy(error: BaseException, owner: Owner, module: str) -> str:
    """What the user can do about a plugin whose `module` failed with `error`."""
    packaged = bool(owner.version)
    block = f"block it with VITA_PLUGINS_BLOCK={owner.selector}"
    mend = f"update or uninstall {owner.distribution}, or {block}" if packaged else f"mend {module}"
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return mend
    path = module.partition(":")[0]
    if path != error.name and not path.startswith(f"{error.name}."):
        return f"pip install {error.name}; or {mend}"
    if packaged:
        return f"its module is gone: pip uninstall {owner.distribution}, or install it again; or {block}"
    return f"give the dotted name of a module in the working directory or on PYTHONPATH, not {path!r}"


def warn_notes(plugins: Iterable[Plugin]) -> None:
    """Turn what plugins were warned about into Python warnings, once each."""
    for plugin in plugins:
        for note in plugin.notes:
            warnings.warn(f"plugin {plugin.owner.plugin} of {plugin.owner} {note}", FutureWarning, stacklevel=3)
