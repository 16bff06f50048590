"""Probe vision towers: what their features are worth without a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vita_core.planning.resolution import Resolved
from vita_core.planning.towers import ResolvedTower
from vita_core.planning.videos import refuse_stills
from vita_core.probing.features import FeatureReader, Features, Timing
from vita_core.probing.layers import TowerReader, single_layers
from vita_core.probing.measures import cka_matrix, rank_me, rounded, sink_share
from vita_core.probing.scores import NEIGHBOURS, logistic, nearest_neighbours, one_thread, patch_ranks, scikit_learn
from vita_core.probing.task import Task, read_task

__all__ = ["MEASURES", "probe"]

MEASURES = ("knn", "linear")
"""``knn`` is k-nearest neighbours, ``linear`` logistic regression."""


@dataclass(frozen=True)
class _Scored:
    """The numbers of one selection, as they are printed, its features, and for each measure which test pictures it hits."""

    told: dict[str, Any]
    features: Features
    hits: dict[str, list[bool]]


def probe(
    configs: Mapping[str, Resolved],
    data: Path,
    *,
    labels: str | None = None,
    every_layer: bool = False,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, Any]:
    """Score the features of towers on labelled pictures, and return plain data. `configs` are resolved configs by name.

    The pictures are divided into training, validation and test; near-duplicates stay together. With `every_layer`, each tower's
    encoder runs once, the layer with the best logistic regression on the validation pictures is chosen, and its score on the
    test pictures is reported. Accuracies have 95% intervals. Equal arguments give equal results, apart from ``timings``. See
    `read_labelled` for `labels`. Raises VitaError for what cannot be probed, before the first picture is encoded.
    """
    scikit_learn()
    for resolved in configs.values():
        refuse_stills(resolved.tower, "vita probe: it takes still pictures")
        if every_layer:
            single_layers(resolved.tower)
    task, about = read_task(data, labels, seed, limit, configs)
    results: list[dict[str, Any]] = []
    reported: dict[str, _Scored] = {}
    timings: dict[str, Timing] = {}
    for name, resolved in configs.items():
        told, reported[name], timings[name] = _probed(name, resolved, task, every_layer=every_layer)
        results.append(told)
    pooled = [scored.features.pooled for scored in reported.values()]
    whole = {
        "data": about,
        "settings": {"k": NEIGHBOURS, "seed": seed, "limit": limit, "every_layer": every_layer},
        "configs": results,
        "pairs": _pairs(reported, task),
        "cka": {"configs": [*reported], "matrix": cka_matrix(pooled)},
    }
    return {**rounded(whole), "timings": {name: rounded(vars(timing)) for name, timing in timings.items()}}


# one config --------------------------------------------------------------------------------------------------------------


def _probed(name: str, resolved: Resolved, task: Task, *, every_layer: bool) -> tuple[dict[str, Any], _Scored, Timing]:
    """Return what is told of one config, the selection whose score is reported, and the time that encoding took."""
    singles, without = single_layers(resolved.tower) if every_layer else ([], {})
    own = resolved.tower.geometry.layers
    selections = [resolved.tower, *(one for one in singles if one.geometry.layers != own)]
    reader = FeatureReader(TowerReader(resolved, selections), task.data, name)
    found = reader.features(task.retrieved)
    with one_thread():
        scored = [_scored(*one, task) for one in zip(selections, found, strict=True)]
    told: dict[str, Any] = {
        "config": name,
        "tower": resolved.tower.spec.name,
        "weights": resolved.tower.source.weights,
        "configured": _tested(scored[0], task),
    }
    if not every_layer:
        return told, scored[0], reader.timing
    layers = sorted((one for one in scored if len(one.told["layers"]) == 1), key=lambda one: one.told["layers"])
    # the first of equally good ones, which costs the least
    chosen = max(layers, key=lambda one: (one.told["linear"]["validation"], one.told["knn"]["validation"]))
    told |= {
        "chosen": _tested(chosen, task),
        "every_layer": [one.told for one in layers],
        "not_probed": {str(layer): why for layer, why in without.items()},
        "layers_cka": {
            "layers": [one.told["layers"][0] for one in layers],
            "matrix": cka_matrix([one.features.pooled for one in layers]),
        },
    }
    return told, chosen, reader.timing


def _scored(selection: ResolvedTower, features: Features, task: Task) -> _Scored:
    """Score one selection on the validation and the test pictures. Only the former is told."""
    splits, pooled = task.splits, features.pooled.double().numpy()
    train, asked = [*splits.train], [*splits.validation, *splits.test]
    known, wanted = ([task.labels[place] for place in places] for places in (train, asked))
    groups = [splits.groups[place] for place in train]
    named: dict[str, list[str]] = {"knn": nearest_neighbours(pooled[train], known, pooled[asked])}
    named["linear"], cost = logistic(pooled[train], known, groups, pooled[asked], seed=task.seed)
    right = {measure: [a == b for a, b in zip(named[measure], wanted, strict=True)] for measure in MEASURES}
    first = len(splits.validation)
    told: dict[str, Any] = {
        "layers": [*selection.geometry.layers],
        "tokens": selection.geometry.num_tokens,
        "hidden_size": selection.geometry.hidden_size,
        **{measure: {"validation": float(np.mean(right[measure][:first]))} for measure in MEASURES},
        "rank_me": rank_me(features.pooled),
        "sinks": sink_share(torch.cat(features.norms)),
        "retrieval": _retrieval(features, task),
    }
    told["linear"]["c"] = cost
    return _Scored(told, features, {measure: right[measure][first:] for measure in MEASURES})


def _tested(scored: _Scored, task: Task) -> dict[str, Any]:
    """Return what is told of a selection, with its accuracy on the test pictures and the interval of that."""
    told = dict(scored.told)
    for measure, hits in scored.hits.items():
        low, high = task.interval(hits, task.splits.test)
        told[measure] = {**told[measure], "test": float(np.mean(hits)), "low": low, "high": high}
    return told


def _retrieval(features: Features, task: Task) -> dict[str, Any] | None:
    """Return the mean average precision of patch retrieval and its interval, or None for tokens without a grid."""
    if features.patches is None or features.mirrored is None:
        return None
    ranks = patch_ranks(features.patches, features.mirrored, features.columns)
    pool = sum(map(len, features.mirrored))
    each = [float((1 / one.double()).mean()) for one in ranks]
    low, high = task.interval(each, task.retrieved)
    first = float(np.mean([float((one == 1).double().mean()) for one in ranks]))
    random_order = float(np.mean(1 / np.arange(1, pool + 1)))
    return {"map": float(np.mean(each)), "low": low, "high": high, "first": first, "pool": pool, "chance": random_order}


# several configs ---------------------------------------------------------------------------------------------------------


def _pairs(reported: Mapping[str, _Scored], task: Task) -> list[dict[str, Any]]:
    """Return the paired difference of each two configs on the same test pictures, with its interval."""
    names, pairs = [*reported], []
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            for measure in MEASURES:
                both = zip(reported[first].hits[measure], reported[second].hits[measure], strict=True)
                values = [float(a) - float(b) for a, b in both]
                low, high = task.interval(values, task.splits.test, least=-1.0)
                found = {"a": first, "b": second, "measure": measure, "difference": float(np.mean(values))}
                pairs.append({**found, "low": low, "high": high})
    return pairs
