"""Find the tower of a checkpoint. Its ``mm_vision_tower`` is often a path on the author's machine. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import Layout
from vita_core.plugins.registry import known_towers
from vita_core.untrusted.files import read_tail
from vita_core.weights.sources import CONFIG_FILES, Source, locate

__all__ = ["FoundTower", "find_tower", "refuse_another"]

TAIL = 1 << 16
"""How many bytes at the end of two weight files are compared."""


@dataclass(frozen=True)
class FoundTower:
    """A tower's source, and a text for the user that says how it was found."""

    source: Source
    how: str


def find_tower(layout: Layout, own: Source, given: str | None, *, whole: bool) -> FoundTower:
    """Find the tower of the checkpoint `own`.

    The places are, in this order: `given` (``--tower-weights``); the checkpoint's own tower config; the configured path as
    it is; the path relative to the checkpoint; a directory of that name next to the checkpoint. If the checkpoint contains
    all weights (`whole`), the published geometry of a known hub id of that name is enough. A hub is asked only for a full
    id, in `given` or known. Raises CheckpointError that lists the places.
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
        raise CheckpointError(
            f"{own.weights}: mm_vision_tower is missing in its config.json. Try: pass --tower-weights DIR with the directory "
            "of its tower"
        )
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


def refuse_another(layout: Layout, own: Source, given: Source) -> None:
    """Raise CheckpointError for a local tower that is not that of a checkpoint which holds the tensors of its own.

    Only those would be loaded. Nothing is refused if the checkpoint's own is not found on this disk.
    """
    try:
        stated = find_tower(layout, own, None, whole=True).source
    except CheckpointError:
        return  # `given` is where the config is
    if stated.path is not None and given.path is not None and not _alike(stated, given):
        raise CheckpointError(
            f"tower.weights: {given.weights} is not the tower of {own.weights}, {stated.weights}, whose "
            "tensors that checkpoint holds: they would be loaded. Try: leave it out; to swap the tower, train a projector for "
            "it with a config whose `llm.weights` is the language model alone"
        )


def _alike(one: Source, other: Source) -> bool:
    """Whether two local towers are one directory, or have the same config and, where both have any, the same weights."""
    assert one.path is not None
    assert other.path is not None
    if one.path.samefile(other.path):
        return True
    weights = [_weights(path) for path in (one.path, other.path)]
    return one.config == other.config and (not all(weights) or weights[0] == weights[1])


def _weights(path: Path) -> dict[str, tuple[int, bytes]]:
    """Return the size of each weight file and its last bytes, which two trainings do not share. Nothing else is read."""
    files = [*path.glob("*.safetensors"), *path.glob("*.bin")] if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": (file.stat().st_size, read_tail(file, TAIL)) for file in files}


def _given(weights: str) -> Source:
    try:
        source = locate(weights)
    except CheckpointError as error:
        raise CheckpointError(*error.within("--tower-weights")) from error
    if not source.config:
        raise CheckpointError(
            f"--tower-weights: no {' or '.join(CONFIG_FILES)} in {weights}. Try: the directory of a tower with its config.json"
        )
    return source


def _is_tower(place: Path) -> bool:
    return place.is_file() or any((place / name).is_file() for name in CONFIG_FILES)


def _published(name: str, known: Mapping[str, Mapping[str, Any]]) -> FoundTower | None:
    """Return the known hub id that is `name`, or whose last part is the last part of `name`. The hub is not asked."""
    base = Path(name).name
    hub_id = next((known_id for known_id in known if name == known_id or known_id.partition("/")[2] == base), None)
    if hub_id is None:
        return None
    return FoundTower(Source(hub_id, None, None, None, known[hub_id], None), f"the published geometry of {hub_id}")


def _not_found(own: Source, name: str, places: Mapping[str, Path]) -> FoundTower:
    tried = ", ".join(f"{place} ({how})" for how, place in places.items())
    raise CheckpointError(
        f"{own.weights}: its tower was not found: {name!r}. No config.json in {tried}. Try: pass --tower-weights DIR "
        "(tower_weights=... in Python) with the tower's directory or its hub id owner/name"
    )
