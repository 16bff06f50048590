"""Find the entry points of the installed distributions, and the distribution that each one belongs to.

The metadata folders on `sys.path` are read here: importing `importlib.metadata` and its `email` parser would take a fifth
of the time of ``vita --help``. It is the fallback for what is not such a folder, and for metadata that cannot be read.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["COMMANDS_GROUP", "EntryPoint", "Owner", "Unreadable", "installed"]

COMMANDS_GROUP = "vita.commands"
"""The entry points of plugins that bring a command of their own."""


@dataclass(frozen=True)
class Owner:
    """The plugin (its entry point's name) and the distribution (with its version) that a spec comes from."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.version else self.distribution

    @property
    def selector(self) -> str:
        """The name that blocks this plugin only: ``distribution:name``."""
        return f"{self.distribution}:{self.plugin}"


@dataclass(frozen=True)
class EntryPoint:
    """An entry point and its owner. `value` is ``"module"`` or ``"module:attribute"``."""

    owner: Owner
    value: str

    @property
    def name(self) -> str:
        """The name that the distribution gave to the entry point."""
        return self.owner.plugin

    def load(self) -> Any:
        """Import the module and return it, or the attribute that `value` names."""
        module, _, attribute = self.value.partition("[")[0].partition(":")
        names = attribute.strip().split(".") if attribute else []
        return reduce(getattr, names, importlib.import_module(module.strip()))


@dataclass(frozen=True)
class Unreadable:
    """A distribution whose metadata, in `folder`, cannot be read. It may contain a plugin."""

    folder: Path
    reason: str

    @property
    def owner(self) -> Owner:
        """The owner, named after the folder (``ghost-1.0.dist-info``)."""
        return Owner(self.folder.name.partition("-")[0], self.folder.name, "")


def installed(group: str) -> tuple[list[EntryPoint], list[Unreadable]]:
    """Return the entry points of a group, each once, and the distributions whose metadata cannot be read."""
    try:
        return _scan(group), []
    except Exception:  # a zip file, an egg, a finder of another tool, damaged metadata: one must not hide the others
        return _one_by_one(group)


def _scan(group: str) -> list[EntryPoint]:
    """Read the metadata folders on `sys.path`. Raise an error where they are not everything, or one cannot be read."""
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions") and finder is not PathFinder]
    # that of the backport `importlib_metadata` looks on the same path
    if any(type(finder).__module__ != "importlib_metadata" for finder in finders):
        raise LookupError("a finder of another tool may know more distributions")
    points: list[EntryPoint] = []
    seen: set[str] = set()
    for place in sys.path:
        for name, folder in _folders(place or "."):
            if name not in seen:  # the first on the path is the one that is imported
                seen.add(name)
                points += _points(_text(folder, "entry_points.txt"), group, folder)
    return [*dict.fromkeys(points)]


def _folders(place: str) -> Iterator[tuple[str, str]]:
    """The distributions in a folder of `sys.path`: normalised name, metadata folder."""
    if place.endswith(".egg"):
        raise LookupError(f"{place} has its metadata in another place")
    try:
        children = os.listdir(place)  # noqa: PTH208  # this runs at every start, over some hundred names
    except FileNotFoundError:
        return
    for child in children:
        if child.endswith((".dist-info", ".egg-info")):
            yield _normalised(child.rpartition(".")[0].partition("-")[0]), f"{place}/{child}"


def _points(text: str, group: str, folder: str) -> list[EntryPoint]:
    """The entry points of a group in the text of an ``entry_points.txt``. Raises ValueError for a line without ``=``."""
    if f"[{group}]" not in text:
        return []
    pairs, inside = [], False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line and not line.startswith("#"):
            name, value = map(str.strip, line.split("=", 1))
            pairs.append((name, value))
    distribution, version = _named(_text(folder, "METADATA") or _text(folder, "PKG-INFO")) if pairs else ("", "")
    return [EntryPoint(Owner(name, distribution, version), value) for name, value in pairs]


def _text(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", encoding="utf-8") as file:  # noqa: PTH123  # as above
            return file.read()
    except (FileNotFoundError, NotADirectoryError):  # old distributions are one file
        return ""


def _named(metadata: str) -> tuple[str, str]:
    """Return name and version from the text of a ``METADATA`` file: its headers, not the README below them."""
    headers: dict[str, str] = {}
    for line in metadata.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        headers.setdefault(key.lower(), value.strip())
    if not headers.get("name"):
        raise ValueError("its metadata has no name")
    return headers["name"], headers.get("version") or "?"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _one_by_one(group: str) -> tuple[list[EntryPoint], list[Unreadable]]:
    """As `installed`, by `importlib.metadata`."""
    from importlib.metadata import distributions

    points: dict[EntryPoint, None] = {}
    unreadable: dict[Path, Unreadable] = {}
    seen: set[str] = set()
    for distribution in distributions():
        try:
            found = [point for point in distribution.entry_points if point.group == group]
            name, version = _headers(distribution) if found else ("", "")
        except Exception as error:
            folder = Path(getattr(distribution, "_path", "unknown"))  # importlib.metadata has no public name for it
            unreadable[folder] = Unreadable(folder, f"{type(error).__name__}: {error}")
            continue
        if _normalised(name) not in seen:
            seen.add(_normalised(name))
            points |= {EntryPoint(Owner(point.name, name, version), point.value): None for point in found}
    return [*points], [*unreadable.values()]


def _headers(distribution: Distribution) -> tuple[str, str]:
    return _named(distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "")
