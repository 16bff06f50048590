"""Discover plugins: read entry points, drop blocked names, import the rest one by one, and keep each failure as data.

pluggy's own `load_setuptools_entrypoints` stops at the first plugin that fails and skips duplicate names silently, and one
hook that raises aborts the call for all plugins. Each plugin therefore gets its own plugin manager.
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
from typing import Any, Literal

import pluggy

from vita_core import interrupts
from vita_core.errors import PluginError, nearest, split_advice
from vita_core.masking import masked
from vita_core.plugins import hookspecs
from vita_core.plugins.hookspecs import PROJECT, VITA_API
from vita_core.plugins.installed import EntryPoint, Owner, Unreadable, installed
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = [
    "GROUP",
    "HOOKS",
    "AnySpec",
    "Plugin",
    "Selection",
    "describe",
    "discover",
    "load_plugin",
    "remedy",
    "warn_notes",
]

GROUP = "vita"
AnySpec = TowerSpec | ProjectorSpec | ReductionSpec | LLMSpec
HOOKS: dict[str, type] = {
    "vita_towers": TowerSpec,
    "vita_projectors": ProjectorSpec,
    "vita_reductions": ReductionSpec,
    "vita_llms": LLMSpec,
}
Status = Literal["loaded", "failed", "blocked"]


@dataclass(frozen=True)
class Plugin:
    """A plugin and the result of loading it.

    `reason` says why it failed or is blocked, `remedy` what the user can do. `notes` are warnings of a loaded plugin.
    """

    owner: Owner
    module: str
    status: Status
    reason: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()
    specs: tuple[AnySpec, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which plugins to load. `block` and `only` hold entry-point names or ``distribution:name``.

    `modules` are names of importable modules that are loaded as plugins without an entry point.
    """

    block: frozenset[str] = field(default_factory=frozenset)
    only: frozenset[str] | None = None
    modules: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, *, block: Iterable[str] = (), modules: Iterable[str] = ()) -> Selection:
        """Read ``VITA_PLUGINS_BLOCK``, ``VITA_PLUGINS_ONLY`` and ``VITA_PLUGINS``, and add `block` and `modules`."""
        only = _names("VITA_PLUGINS_ONLY")
        return cls(
            block=frozenset([*_names("VITA_PLUGINS_BLOCK"), *block]),
            only=frozenset(only) if "VITA_PLUGINS_ONLY" in os.environ else None,
            modules=tuple(dict.fromkeys([*_names("VITA_PLUGINS"), *modules])),
        )

    def blocked(self, owner: Owner) -> str:
        """Return why the plugin of `owner` must not be imported, or an empty string."""
        names = {owner.plugin, owner.selector}
        if names & self.block:
            return "named in VITA_PLUGINS_BLOCK or --no-plugin"
        if self.only is not None and not names & self.only:
            return "not named in VITA_PLUGINS_ONLY"
        return ""


def _names(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def discover(selection: Selection) -> list[Plugin]:
    """Load every installed plugin, then the named modules. The order is stable: by distribution, then by name."""
    points, unreadable = installed(GROUP)
    points.sort(key=lambda point: (point.owner.distribution, point.name))
    plugins = [_from_entry_point(point, selection) for point in points]
    plugins += [_unreadable(broken, selection) for broken in unreadable]
    for module in selection.modules:
        owner = Owner(module, module, "")
        plugins.append(load_plugin(owner, module, partial(importlib.import_module, module)))
    return plugins


def _from_entry_point(point: EntryPoint, selection: Selection) -> Plugin:
    if reason := selection.blocked(point.owner):
        return Plugin(point.owner, point.value, "blocked", reason)
    return load_plugin(point.owner, point.value, point.load)


def _unreadable(broken: Unreadable, selection: Selection) -> Plugin:
    """Return the entry for a distribution whose metadata cannot be read."""
    if reason := selection.blocked(broken.owner):
        return Plugin(broken.owner, "", "blocked", reason)
    reason = (
        f"its metadata cannot be read: {broken.reason}. The files are damaged, or left over from an uninstalled package"
    )
    remedy = f"delete {broken.folder} and install the package again, or block it with VITA_PLUGINS_BLOCK={broken.owner.selector}"
    return Plugin(broken.owner, "", "failed", reason, remedy)


def load_plugin(owner: Owner, module: str, load: Callable[[], Any]) -> Plugin:
    """Import one plugin and call its hooks. Every failure except Ctrl-C is caught and kept in the returned `Plugin`."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a plugin's own output must not mix with a command's output
            plugin = load()
            notes = _check_api(plugin)
            _check_hook_names(plugin)
            specs = tuple(_collect(_managed(plugin, owner.plugin)))
        return Plugin(owner, module, "loaded", notes=notes, specs=specs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit(), a Rust panic and a pytest outcome are not an Exception
        interrupts.raise_if_asked()
        return Plugin(owner, module, "failed", describe(error), remedy(error, owner, module))


def _check_api(plugin: Any) -> tuple[str, ...]:
    """Check ``vita_api`` and return the warnings about it. Raises PluginError for a version that is not supported."""
    stated = getattr(plugin, "vita_api", None)
    if stated is None:
        raise PluginError(f"`vita_api` is missing. Try: add `vita_api = {VITA_API}` to the plugin module")
    if not isinstance(stated, int) or not VITA_API - 1 <= stated <= VITA_API or stated < 1:
        newer = isinstance(stated, int) and stated > VITA_API
        raise PluginError(
            f"`vita_api` is not supported: {stated!r}. This vita-core supports {VITA_API}. "
            f"Try: update {'vita-core' if newer else 'the plugin'}"
        )
    if stated < VITA_API:
        return (
            f"`vita_api` is outdated: {stated}. This vita-core has vita_api {VITA_API} and still supports it, the next "
            "number will not. Try: update the plugin",
        )
    return ()


def _check_hook_names(plugin: Any) -> None:
    """Raise PluginError for a misspelled hook and for one without `@hookimpl`: pluggy ignores both silently."""
    for name in dir(plugin):
        value = getattr(plugin, name, None)
        if name.startswith("vita_") and callable(value) and name not in HOOKS:
            raise PluginError(f"unknown hook: {name}.{nearest(name, HOOKS)} Try: one of {', '.join(HOOKS)}")
        if name in HOOKS and not hasattr(value, f"{PROJECT}_impl"):
            raise PluginError(f"hook without the `@hookimpl` decorator: {name}. Try: import `hookimpl` from vita_core")


class _HookSpecs:
    """An object with the hook specifications only. pluggy inspects every name of it, once for each manager."""

    def __init__(self) -> None:
        vars(self).update({name: getattr(hookspecs, name) for name in HOOKS})

    def __dir__(self) -> Iterable[str]:
        return list(HOOKS)


def _managed(plugin: Any, name: str) -> pluggy.PluginManager:
    """Return a plugin manager with this plugin alone. Raises PluginError for a wrong hook signature or name."""
    manager, specs = pluggy.PluginManager(PROJECT), _HookSpecs()
    manager.add_hookspecs(specs)  # type: ignore[arg-type]  # it takes any object, but is typed for modules and classes
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        described = " ".join(str(error).split())
        raise PluginError(f"{described}. Try: a hook without arguments, one of {', '.join(HOOKS)}") from error
    return manager


def _collect(manager: pluggy.PluginManager) -> Iterable[AnySpec]:
    for hook, kind in HOOKS.items():
        for result in getattr(manager.hook, hook)():
            if not isinstance(result, Sequence):
                raise PluginError(
                    f"{hook} did not return a list: a {type(result).__name__}. Try: return a list of {kind.__name__}"
                )
            for spec in result:
                if not isinstance(spec, kind):
                    raise PluginError(
                        f"{hook} returned a wrong value: {spec!r}. Try: return {kind.__name__} objects only"
                    )
                yield spec  # type: ignore[misc]  # mypy knows the classes in HOOKS only as `type`


def describe(error: BaseException) -> str:
    """Return one line: the error's type and the first line of its message, without its advice (``Try:``)."""
    text = str(error).strip().splitlines()
    first = split_advice(text[0])[0] if text else ""
    return first if isinstance(error, PluginError) else masked(f"{type(error).__name__}: {first}".rstrip(": "))


def remedy(error: BaseException, owner: Owner, module: str) -> str:
    """Return what the user can do about a plugin whose `module` failed with `error`: a text to follow ``Try:``."""
    packaged = bool(owner.version)
    block = f"block it with VITA_PLUGINS_BLOCK={owner.selector}"
    mend = f"update or uninstall {owner.distribution}, or {block}" if packaged else f"fix the error in {module}"
    advice = split_advice(str(error).partition("\n")[0])[1] if isinstance(error, PluginError) else ""
    if advice:
        return f"{advice}; or {mend}" if packaged else advice
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return mend
    path = module.partition(":")[0]
    if path != error.name and not path.startswith(f"{error.name}."):
        return f"`pip install {error.name}`; or {mend}"
    if packaged:
        return f"`pip uninstall {owner.distribution}`, or install it again; or {block}"
    return f"give the dotted name of a module in the working directory or on PYTHONPATH, not {path!r}"


def warn_notes(plugins: Iterable[Plugin]) -> None:
    """Issue the notes of plugins as Python warnings."""
    for plugin in plugins:
        for note in plugin.notes:
            warnings.warn(f"plugin {plugin.owner.plugin} of {plugin.owner}: {note}", FutureWarning, stacklevel=3)
