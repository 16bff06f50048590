"""Read the entry points of installed distributions. Metadata that cannot be read is reported and stops nothing."""

from __future__ import annotations

import email
import functools
import re
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path

__all__ = ["Owner", "Unreadable", "installed", "owner_of"]


@dataclass(frozen=True)
class Owner:
    """The owner of a spec: the plugin's entry-point name, and the distribution (with its version) that installed it."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.version else self.distribution

    @property
    def selector(self) -> str:
        """The name that blocks exactly this plugin: ``distribution:name``."""
        return f"{self.distribution}:{self.plugin}"


@dataclass(frozen=True)
class Unreadable:
    """A distribution whose metadata, in `folder`, cannot be read. It may or may not contain a plugin."""

    folder: Path
    reason: str

    @property
    def owner(self) -> Owner:
        """The owner, named after the folder (``ghost-1.0.dist-info``), because no other name is known."""
        return Owner(self.folder.name.partition("-")[0], self.folder.name, "")


def owner_of(point: EntryPoint) -> Owner:
    """Return the owner of an entry point that `installed` returned."""
    assert point.dist is not None
    return Owner(point.name, *_named(point.dist))


@functools.cache
def _named(distribution: Distribution) -> tuple[str, str]:
    """Return name and version. `distribution.metadata` is slower: it also parses the README below the headers."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    headers = email.message_from_string(text.partition("\n\n")[0])
    if not headers["Name"]:
        raise ValueError("its metadata has no name")
    return headers["Name"], headers["Version"] or "?"


def installed(group: str) -> tuple[list[EntryPoint], list[Unreadable]]:
    """Return the entry points of a group without duplicates, and the distributions whose metadata cannot be read."""
    try:
        points = dict.fromkeys(entry_points(group=group))
        for point in points:
            owner_of(point)
        return [*points], []
    except Exception:  # one distribution is damaged; read them one by one to keep the others
        return _one_by_one(group)


def _one_by_one(group: str) -> tuple[list[EntryPoint], list[Unreadable]]:
    points, unreadable, seen = [], {}, set()
    for distribution in distributions():
        try:
            brought = [point for point in distribution.entry_points if point.group == group]
            name = re.sub(r"[-_.]+", "-", _named(distribution)[0]).lower() if brought else ""
        except Exception as error:
            folder = Path(getattr(distribution, "_path", "unknown"))  # importlib.metadata has no public name for it
            unreadable[folder] = Unreadable(folder, f"{type(error).__name__}: {error}")
            continue
        if name not in seen:  # Python imports the first one on the path
            points += brought
            seen.add(name)
    return [*dict.fromkeys(points)], [*unreadable.values()]
