"""Score features by labels: k-nearest neighbours and logistic regression, with intervals; and by finding patches again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vita_core.errors import ConfigError

__all__ = [
    "COSTS",
    "FOLDS",
    "NEIGHBOURS",
    "interval",
    "interval_of_equals",
    "logistic",
    "nearest_neighbours",
    "one_thread",
    "patch_ranks",
    "scikit_learn",
]

Array = NDArray[Any]
NEIGHBOURS = 20
TEMPERATURE = 0.07
"""Of the neighbours' votes, as in arXiv 1805.01978 and the evaluation of DINO (arXiv 2104.14294)."""
COSTS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""The values of C among which cross-validation chooses."""
FOLDS = 3
RESAMPLES = 10_000
CHUNK = 500


def scikit_learn() -> Any:
    """Return scikit-learn. Raises ConfigError if it is not installed."""
    try:
        import sklearn.exceptions
        import sklearn.linear_model
        import sklearn.model_selection
        import sklearn.neighbors
    except ImportError as error:
        raise ConfigError(
            f"probing needs scikit-learn, which cannot be imported: {error}. Try: `pip install 'vita-core[compare]'`"
        ) from error
    return sklearn


def one_thread() -> Any:
    """Return a context in which products run in one thread: several wait for each other where the products are small."""
    from threadpoolctl import threadpool_limits  # which scikit-learn needs

    return threadpool_limits(1)


def nearest_neighbours(train: Array, labels: Sequence[str], others: Array, k: int = NEIGHBOURS) -> list[str]:
    """Return the label that the `k` nearest of features `train` (n, c) by cosine give each of `others` (m, c).

    Each neighbour's vote counts ``exp(cosine / 0.07)`` (arXiv 1805.01978).
    """

    def votes(distances: Array) -> Array:
        return np.exp(-distances / TEMPERATURE)  # a distance is 1 - cosine; the constant factor changes no vote

    model = scikit_learn().neighbors.KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=votes)
    return [str(name) for name in model.fit(train, [*labels]).predict(others)] if len(others) else []


def logistic(
    train: Array, labels: Sequence[str], groups: Sequence[int], others: Array, *, seed: int
) -> tuple[list[str], float]:
    """Return the labels that a logistic regression on features `train` (n, c) gives `others` (m, c), and its C.

    C is chosen from `COSTS` by three-fold cross-validation, whose folds keep groups whole. The features are standardised by the
    mean and deviation of `train`.
    """
    sklearn = scikit_learn()
    mean, deviation = train.mean(0), train.std(0)
    known, asked = ((features - mean) / np.where(deviation > 0, deviation, 1) for features in (train, others))
    if known.shape[1] > len(known):  # the weights are in the span of the rows: rotating them into it only saves time
        directions = np.linalg.svd(known, full_matrices=False)[2]
        known, asked = known @ directions.T, asked @ directions.T
    folds = sklearn.model_selection.PredefinedSplit(_folds(labels, groups, seed))
    search = sklearn.model_selection.GridSearchCV(
        sklearn.linear_model.LogisticRegression(max_iter=1000), {"C": [*COSTS]}, cv=folds
    )
    with warnings.catch_warnings():  # a fit that is not quite done scores a little lower, and is not chosen then
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        search.fit(known, [*labels])
    return [str(name) for name in search.predict(asked)] if len(asked) else [], float(search.best_params_["C"])


def _folds(labels: Sequence[str], groups: Sequence[int], seed: int) -> list[int]:
    """Return the fold of each picture. Groups are whole, and those of a label go to the folds in turn."""
    order = np.random.default_rng(seed).permutation(len(labels))
    fold: dict[int, int] = {}
    dealt: dict[str, int] = {}
    for place in order:
        if groups[place] not in fold:
            turn = dealt.get(labels[place], 0)
            fold[groups[place]], dealt[labels[place]] = turn % FOLDS, turn + 1
    return [fold[group] for group in groups]


def interval(
    values: Sequence[float], groups: Sequence[int], *, seed: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Return the 95% interval of the mean of `values`, by 10,000 resamples of whole groups of them.

    Resamples of equal values have no spread: see `interval_of_equals`.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    place = [numbers[group] for group in groups]
    if min(values) == max(values):
        return interval_of_equals(values[0], len(numbers), bounds)
    sums, counts = np.zeros(len(numbers)), np.zeros(len(numbers))
    np.add.at(sums, place, [*values])
    np.add.at(counts, place, 1)
    random, means = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // CHUNK):
        drawn = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), CHUNK)
        means.append((drawn @ sums) / (drawn @ counts))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def interval_of_equals(value: float, draws: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the 95% interval of a mean of `draws` that all have the same `value`, within the `bounds` of a value.

    It is that of n draws of which all or none hit, exactly (Clopper and Pearson 1934): ``1 - 0.025 ** (1 / n)`` to each side.
    """
    reach = 1 - 0.025 ** (1 / draws)
    return max(bounds[0], value - reach), min(bounds[1], value + reach)


def patch_ranks(patches: Sequence[Tensor], mirrored: Sequence[Tensor], columns: Sequence[int]) -> list[Tensor]:
    """Return for each picture the rank (m) at which each of its patches finds itself among those of all mirrored pictures.

    The task is patch retrieval of HPatches (arXiv 1704.05939, section 5): patches of a collection are ranked by their likeness
    (here the cosine) to a query, and the score is the mean average precision. Here a query is a token of a picture, the
    collection is the tokens of all mirrored pictures, and the only right one shows the same part of the same picture: of a
    token in column j, the one in the last column but j. With one right patch, the average precision is ``1 / rank``. Unlike in
    HPatches, other patches of the same picture count as wrong, because a language model needs the place too. A tie counts as
    the worst of its ranks.

    patches and mirrored: (m, C) of each picture, row by row with `columns` in a row.
    """
    pool = F.normalize(torch.cat([*mirrored]).double(), dim=-1)
    ranks, start = [], 0
    for queries, row in zip(patches, columns, strict=True):
        likeness = F.normalize(queries.double(), dim=-1) @ pool.T
        right = start + torch.arange(len(queries)).view(-1, row).flip(1).flatten()
        ranks.append((likeness >= likeness.gather(1, right[:, None])).sum(1))
        start += len(queries)
    return ranks
