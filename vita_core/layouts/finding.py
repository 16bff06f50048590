"""Where a checkpoint's tower lies: ``mm_vision_tower`` is often a path on its authors' machine. No torch, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import Layout
from vita_core.plugins.registry import known_towers
from vita_core.weights.sources import CONFIG_FILES, Source, locate

__all__ = ["FoundTower", "find_tower"]


@dataclass(frozen=True)
class FoundTower:
    """A tower's source, and how it was found, for the user to read."""

    source: Source
    how: str


def find_tower(layout: Layout, own: Source, given: str | None, *, whole: bool) -> FoundTower:
    """The tower of the checkpoint `own`.

    In this order: the checkpoint's own tower config, `given` (``--tower-weights``), the configured path as it is, relative
    to the checkpoint, a sibling of the same name. With `whole`, all weights being in the checkpoint, published geometry
    of a known hub id of that name will do. A hub is asked only for what `given` or a known id says in full.
    Raises CheckpointError that says what was tried.
    """
    known = known_towers()
    if given is not None and given != own.weights:
        published = _published(given, known) if whole and given in known else None
        return published or FoundTower(_given(given), f"--tower-weights {given}")
    inside = layout.tower_source(own)
    if inside is not None:
        return FoundTower(inside, "the checkpoint's own config.json")
    name = layout.tower_name(own.config)
    if name is None:
        raise CheckpointError(f"{own.weights}: its config.json names no mm_vision_tower; pass --tower-weights DIR")
    assert own.path is not None
    base, directory = Path(name).name, Path(own.path)
    places = {
        "as it is": Path(name).expanduser(),
        "relative to the checkpoint": directory / name,
        "beside the checkpoint": directory.absolute().parent / base,
    }
    for how, place in places.items():
        if _is_tower(place) and not place.samefile(directory):
            return FoundTower(locate(str(place.absolute())), f"mm_vision_tower {name!r}, {how}: {place}")
    if whole:
        return _published(name, known) or _not_found(own, name, places)
    if name in known:
        return FoundTower(locate(name), f"mm_vision_tower {name!r}, a known hub id")
    return _not_found(own, name, places)


def _given(weights: str) -> Source:
    try:
        source = locate(weights)
    except CheckpointError as error:
        raise CheckpointError(f"--tower-weights: {error}") from error
    if not source.config:
        raise CheckpointError(f"--tower-weights {weights}: there is no {' or '.join(CONFIG_FILES)} in it")
    return source


def _is_tower(place: Path) -> bool:
    return place.is_file() or any((place / name).is_file() for name in CONFIG_FILES)


def _published(name: str, known: Mapping[str, Mapping[str, Any]]) -> FoundTower | None:
    """The known id that is `name`, or whose own name is the last part of it; it is the source's name, not asked for."""
    base = Path(name).name
    hub_id = next((known_id for known_id in known if name == known_id or known_id.partition("/")[2] == base), None)
    if hub_id is None:
        return None
    return FoundTower(Source(hub_id, None, None, None, known[hub_id], None), f"the published geometry of {hub_id}")


def _not_found(own: Source, name: str, places: Mapping[str, Path]) -> FoundTower:
    tried = "; ".join(f"{how} ({place})" for how, place in places.items())
    raise CheckpointError(
        f"{own.weights}: its tower {name!r} is nowhere here. Looked for a config.json {tried}. Pass --tower-weights "
        "DIR (tower_weights=... in Python) with the tower's directory, or its hub id as `owner/name`"
    )
