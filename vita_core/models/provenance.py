"""The record of what a saved model was made of: the plugin of each part, and the sources of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_core.planning.checkpoints import Checkpoint
from vita_core.planning.reduction_weights import reduction_files
from vita_core.planning.reductions import ResolvedReduction
from vita_core.planning.resolution import Resolved
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import CORE, SESSION, version_of
from vita_core.weights.assets import ASSET_PREFIX, provenance
from vita_core.weights.files import sha256
from vita_core.weights.sources import commit

__all__ = ["full_type", "learning", "made_by", "named_source", "reduction_sources", "sources", "tower_source"]

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".gguf"}


def full_type(name: str, owner: Owner) -> str:
    """Return the type that selects a part of a model: with the distribution before it, if a plugin registers it."""
    own = owner.distribution in (CORE.distribution, SESSION.distribution)
    return name if own else f"{owner.distribution}/{name}"


def made_by(resolved: Resolved) -> dict[str, Any]:
    """Return the distribution and the version of vita-core and of the plugin of each part."""
    projector, llm = resolved.language("a saved model")
    owners = {"tower": resolved.tower.owner, "projector": projector.owner, "llm": llm.owner}
    owners |= {f"tower/{place}": part.owner for place, part in enumerate(resolved.tower.parts)}
    plugins: dict[str, Any] = {part: _plugin(owner) for part, owner in owners.items()}
    if learned := learning(resolved.tower):
        plugins["reduce"] = {key: _plugin(step.owner) for key, step in learned.items()}
    return {"vita-core": version_of(CORE), **plugins}


def _plugin(owner: Owner) -> dict[str, str]:
    return {"distribution": owner.distribution, "version": version_of(owner)}


def sources(resolved: Resolved) -> dict[str, Any]:
    """Return the source of each part's weights: name, revision and SHA-256 of local files, or the record of an asset.

    The files of a checkpoint of another project are listed once, under ``checkpoint``.
    """
    tower, (projector, llm) = resolved.tower, resolved.language("a saved model")
    checkpoint, trained = resolved.checkpoint, projector.settings.weights
    own = [] if projector.files is None else list(projector.files.files)
    record: dict[str, Any] = {"tower": tower_source(tower)}
    if learned := learning(tower):
        record["reduce"] = reduction_sources(learned)
    if checkpoint is None:
        weights, revision = llm.settings.weights, llm.settings.revision
        record["projector"] = _source(trained, None, own)
        return record | {"llm": named_source(weights, revision)}
    place = checkpoint.source.weights
    record["projector"] = _source(trained or place, None, own)
    record["llm"] = _source(place if checkpoint.base is None else checkpoint.base.weights, None, [])
    return record | {"checkpoint": _checkpoint(checkpoint)}


def tower_source(tower: ResolvedTower) -> dict[str, Any]:
    """Return the source of an encoder's weights, or under ``parts`` those of several (see `sources`)."""
    if tower.parts:
        return {"parts": [tower_source(part) for part in tower.parts]}
    source = tower.source
    local = tower.part is None and source.path is not None and source.path.exists()
    return _source(source.weights, source.revision, source.files(tower.spec.weight_files) if local else [])


def named_source(weights: str | None, revision: str | None = None) -> dict[str, Any]:
    """Return the source of weights by their name in a config: an asset, a local path or a hub id (see `sources`)."""
    return _source(weights, revision, _weight_files(weights))


def learning(tower: ResolvedTower) -> dict[str, ResolvedReduction]:
    """Return the reductions that learn, each by its name in a record: ``reduce[0]``, in a part ``towers[1].reduce[0]``."""
    found = {step.key.removeprefix("tower."): step for step in tower.geometry.reductions if step.spec.trainable}
    for place, part in enumerate(tower.parts):
        found |= {f"towers[{place}].{key}": step for key, step in learning(part).items()}
    return found


def reduction_sources(learned: Mapping[str, ResolvedReduction]) -> dict[str, Any]:
    """Return the source of the weights of each reduction, as `sources` does. Untrained ones have none."""
    files = {key: reduction_files(step) for key, step in learned.items() if step.settings.weights is not None}
    return {key: _source(step.settings.weights, None, files.get(key, [])) for key, step in learned.items()}


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    own = [file for file in checkpoint.files if file.parent == checkpoint.source.path]
    place = checkpoint.source.weights
    record = {"layout": checkpoint.layout.name, **_source(place, None, own or _weight_files(place))}
    if checkpoint.base is not None:
        record["base"] = named_source(checkpoint.base.weights)
    return record


def _source(weights: str | None, revision: str | None, files: list[Path]) -> dict[str, Any]:
    if weights is not None and weights.startswith(ASSET_PREFIX):
        return {"weights": weights, "asset": provenance(weights.removeprefix(ASSET_PREFIX))}
    hashes = {path.name: sha256(path) for path in files}
    return {"weights": weights, **_at(weights, revision), "files": hashes}


def _at(weights: str | None, revision: str | None) -> dict[str, str | None]:
    """Return the revision that a config states, and for a hub id the commit that it was."""
    found = None if weights is None else commit(weights, revision)
    return {"revision": revision} | ({} if found is None else {"commit": found})


def _weight_files(weights: str | None) -> list[Path]:
    """Return the local weight files of `weights`, or an empty list for a hub id or an asset."""
    path = Path(weights).expanduser() if weights is not None else None
    if path is None or not path.exists():
        return []
    files = [path] if path.is_file() else path.iterdir()
    return sorted(file for file in files if file.suffix in WEIGHT_SUFFIXES)
