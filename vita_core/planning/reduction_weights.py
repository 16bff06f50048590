"""The weights of reductions that learn: which file holds them, whether they fit, and where they are missing.

Of a file, only the header is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vita_core.config.schema import TowerConfig
from vita_core.errors import CheckpointError, ConfigError
from vita_core.planning.fused import in_part
from vita_core.planning.reductions import ResolvedReduction
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.specs import WEIGHT_FILES
from vita_core.untrusted.tensorfiles import stated, tensor_shapes
from vita_core.weights.keyrules import KeyRules
from vita_core.weights.shards import named_files

__all__ = [
    "before_learning",
    "check_parts",
    "check_trained",
    "check_weights",
    "key_rules",
    "place_in_reduce",
    "reduction_files",
    "stated_in_file",
    "stated_step",
]

AGAIN = "train a new one with `vita train CONFIG --data DATA --out DIR`"
Shapes = Mapping[str, tuple[int, ...]]


def key_rules(step: ResolvedReduction) -> KeyRules:
    """Return what maps the keys of a checkpoint to those of the module of a reduction."""
    return KeyRules(step.spec.renames, (), step.spec.skips)


def stated_in_file(step: ResolvedReduction) -> dict[str, str]:
    """Return what the file of its weights states about it: its type and its widths."""
    return {"type": step.spec.name, "in_features": str(step.before[-1]), "out_features": str(step.after[-1])}


def reduction_files(step: ResolvedReduction) -> list[Path]:
    """Return the files of its weights: one file, the shards of an index, or those of a directory. Raises CheckpointError."""
    rules = key_rules(step)

    def needed(key: str) -> bool:
        return rules.skipped(rules.renamed(key)) is None

    advice = f"the reduce-0.safetensors that vita train wrote, another .safetensors or .bin file, or {AGAIN}"
    try:
        return named_files(str(step.settings.weights), WEIGHT_FILES, needed, advice)
    except CheckpointError as error:
        raise CheckpointError(*error.within(f"{step.key}.weights")) from error


def check_trained(tower: ResolvedTower) -> None:
    """Raise ConfigError if a reduction of a tower, or of a part of a fused tower, learns but has no weights."""
    _in_parts(tower, check_trained)
    for step in tower.geometry.reductions:
        if step.spec.trainable and step.settings.weights is None:
            raise ConfigError(
                f"{step.key}.weights: missing: {step.spec.name!r} learns, and untrained it gives tokens without a meaning. "
                "Try: `vita train CONFIG --data DATA --out DIR`, or a file with its weights"
            )


def check_parts(tower: ResolvedTower) -> None:
    """Raise ConfigError if a reduction of a part of a fused tower has no weights: training knows those of the whole."""
    for place, part in enumerate(tower.parts):
        for step in part.geometry.reductions:
            if step.spec.trainable and step.settings.weights is None:
                key = f"tower.towers.{place}.{step.key.removeprefix('tower.')}"
                raise ConfigError(
                    f"{key}.weights: missing: {step.spec.name!r} learns, and that of a part is not trained with the others. "
                    "Try: train it with this encoder alone, or write it beside `towers`"
                )


def check_weights(tower: ResolvedTower) -> None:
    """Raise CheckpointError if the header of a reduction's weights shows another type, other widths or other tensors."""
    _in_parts(tower, check_weights)
    for step in tower.geometry.reductions:
        if step.settings.weights is not None:
            _check_weights(step)


def _in_parts(tower: ResolvedTower, check: Callable[[ResolvedTower], None]) -> None:
    for place, part in enumerate(tower.parts):
        with in_part(place):
            check(part)


def _check_weights(step: ResolvedReduction) -> None:
    files, place = reduction_files(step), f"{step.key}.weights: {step.settings.weights}"
    try:
        told, stored = stated(files), dict(tensor_shapes(files))
    except CheckpointError as error:
        raise CheckpointError(*error.within(f"{step.key}.weights")) from error
    own = stated_in_file(step)
    saved = told if own.keys() <= told.keys() else own
    if saved["type"] != own["type"]:
        raise CheckpointError(
            f"{place} holds the weights of {saved['type']!r}, not of {own['type']!r}. Try: its own file, or {AGAIN}"
        )
    if saved["in_features"] != own["in_features"] or saved["out_features"] != own["out_features"]:
        raise CheckpointError(
            f"{place} was trained for tokens of {saved['in_features']} channels and gives {saved['out_features']}, but here it "
            f"gets {own['in_features']} and is to give {own['out_features']}. Try: the settings that it was trained with, or "
            f"{AGAIN}"
        )
    if step.spec.tensors is not None:
        wanted = step.spec.tensors(step.before, step.options)
        if wrong := _differences(step, stored, wanted):
            raise CheckpointError(
                f"{place} does not fit {own['type']!r} with these options: {wrong}. Try: the options that it was trained with, "
                f"or {AGAIN}"
            )


def _differences(step: ResolvedReduction, stored: Shapes, wanted: Shapes) -> str:
    """Return what is wrong with the tensors of a file, or an empty string. `wanted` are those of the module."""
    rules = key_rules(step)
    found = {name: shape for key, shape in stored.items() if rules.skipped(name := rules.renamed(key)) is None}
    shapes = [
        f"{name} is {_sides(shape)} instead of {_sides(wanted[name])}"
        for name, shape in sorted(found.items(), key=lambda item: -len(item[1]))  # matrices tell more than biases
        if name in wanted and tuple(shape) != tuple(wanted[name])
    ]
    groups = {
        "": shapes,
        "missing ": [name for name in wanted if name not in found],
        "unexpected ": [name for name in found if name not in wanted],
    }
    return "; ".join(
        f"{word}{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for word, names in groups.items()
        if names
    )


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def before_learning(tower: ResolvedTower) -> tuple[ResolvedTower, tuple[ResolvedReduction, ...]]:
    """Split a tower: return it up to its first reduction that learns, and the reductions from that one on.

    The first is `tower` itself if none learns.
    """
    geometry = tower.geometry
    first = next((place for place, step in enumerate(geometry.reductions) if step.spec.trainable), None)
    if first is None:
        return tower, ()
    kept, learned = geometry.reductions[:first], geometry.reductions[first:]
    *places, width = learned[0].before
    steps = (
        ()
        if tower.shape.frames is None or tower.settings.select_feature not in (None, "patch")
        else (tower.shape.steps,)
    )
    places = [*steps, *places]
    grid = tuple(places) if len(places) > 1 + len(steps) else None
    geometry = replace(geometry, reductions=kept, grid=grid, num_tokens=math.prod(places), hidden_size=width)
    return replace(tower, settings=_without(tower.settings, learned[0].key), geometry=geometry), learned


def _without(settings: TowerConfig, key: str) -> TowerConfig:
    """Return the config of a tower without the steps behind its encoder from the one at `key` (``tower.reduce[1]``) on."""
    steps = settings.reduce if isinstance(settings.reduce, list) else [settings.reduce] if settings.reduce else []
    kept = [step for place, step in enumerate(steps) if place < place_in_reduce(key) or step.blocks is not None]
    return settings.model_copy(update={"reduce": kept or None})


def stated_step(section: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the reduction at `key` (``tower.reduce[1]``) of a section ``tower:``, which is plain data."""
    steps = section["reduce"]
    step: dict[str, Any] = steps[place_in_reduce(key)] if isinstance(steps, list) else steps
    return step


def place_in_reduce(key: str) -> int:
    """Return the place in ``tower.reduce`` of the step at `key` (``tower.reduce[1]``)."""
    return int(key.rpartition("[")[2].rstrip("]"))
