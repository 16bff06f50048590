"""Means over seeds and pictures with 95% intervals, and tests of paired differences.

Scores are an array (seeds, pictures). Both are random: other seeds and other pictures would give other scores. Pictures of
a group of near-duplicates count as one draw. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vita_core.errors import VitaError

__all__ = ["FEWEST", "LEVEL", "RESAMPLES", "Estimate", "check_installed", "estimate", "holm", "needed_groups"]

Scores = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
FEWEST = 20
"""With fewer groups of pictures than this, an interval of a share is too often too narrow."""
ROUNDING = 1e-18
"""A smaller variance is that of rounding."""
AT_ONCE = 1 << 22
"""How many values of a resample are in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, and `p`, the two-sided p-value of the mean being zero.

    `pictures` and `seeds` are the variances of the mean that come from resampling the one or the other, `error` its
    standard error, and `freedom` the degrees of freedom of its t-distribution.
    """

    mean: float
    low: float
    high: float
    p: float
    error: float
    freedom: float
    pictures: float
    seeds: float


def estimate(scores: Scores, groups: Sequence[int], *, share: bool = False, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of `scores` (seeds, pictures) with its interval. `groups` has the number of each picture's group.

    The variance of the mean is that of resampled groups plus that of resampled seeds, less what both contain (two-way
    clustering: Cameron, Gelbach and Miller 2011), each with the factor n / (n - 1). The t-distribution has Satterthwaite's
    degrees of freedom, so that few seeds give a wide interval. One seed has no variance, and the interval is then that of
    pictures alone. With `share`, scores are 0 or 1 and the interval is Wilson's, with as many draws as give this variance.
    """
    sums, counts = _by_group(scores, groups)
    seeds, drawn = sums.shape
    mean = float(sums.sum() / (seeds * counts.sum()))
    pictures = _resampled(sums.mean(0), counts, resamples) if drawn > 1 else 0.0
    between = _resampled(scores.mean(1), np.ones(seeds), resamples) if seeds > 1 else 0.0
    variance = max(pictures + between - _both(sums, counts), pictures, between)
    variance = variance if variance > ROUNDING else 0.0
    freedom = _freedom((drawn, pictures), (seeds, between))
    error = math.sqrt(variance)
    t = _student()
    reach = float(t.ppf(0.5 + LEVEL / 2, freedom))
    p = float(2 * t.sf(abs(mean) / error, freedom)) if error else _sign_test(mean, drawn)
    low, high = mean - reach * error, mean + reach * error
    if share:
        low, high = _wilson(mean, variance, drawn, reach)
    return Estimate(mean, low, high, p, error, freedom, pictures, between)


def _sign_test(mean: float, draws: int) -> float:
    """Return the two-sided p-value of the sign test for draws that are all equal: few of them cannot show much."""
    return 1.0 if mean == 0 else min(1.0, 2 * 0.5**draws)


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def needed_groups(found: Estimate, groups: int, tests: int = 1) -> int | None:
    """Return how many groups of pictures would show a difference as large as `found` in 80% of comparisons, or None.

    It is one of so many `tests`, and has to pass the strictest step of Holm's correction. None means that more pictures would
    not do: the difference between seeds is too large, or there is no difference.
    """
    t = _student()
    reach = float(t.ppf(1 - (1 - LEVEL) / (2 * tests), found.freedom) + t.ppf(POWER, found.freedom))
    left = (found.mean / reach) ** 2 - found.seeds
    return math.ceil(groups * found.pictures / left) if left > 0 else None


def _by_group(scores: Scores, groups: Sequence[int]) -> tuple[Scores, Scores]:
    """Return the sum of the scores of each group (seeds, groups), and the number of its pictures (groups)."""
    numbers, where = np.unique(np.asarray(groups), return_inverse=True)
    sums = [np.bincount(where, weights=row, minlength=len(numbers)) for row in scores]
    return np.array(sums, float), np.bincount(where).astype(float)


def _resampled(sums: Scores, counts: Scores, resamples: int) -> float:
    """Return the variance of the mean over resamples of clusters with these sums and counts, unbiased for few clusters."""
    count, rng, means = len(sums), np.random.default_rng(0), []
    step = max(1, AT_ONCE // count)
    for start in range(0, resamples, step):
        drawn = rng.integers(count, size=(min(step, resamples - start), count))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return float(np.concatenate(means).var() * count / (count - 1))


def _both(sums: Scores, counts: Scores) -> float:
    """Return the variance of the mean that is neither of seeds nor of pictures: both resamples contain it."""
    seeds, drawn = sums.shape
    if seeds < 2 or drawn < 2:
        return 0.0
    means = sums - counts * (sums.sum(1, keepdims=True) / counts.sum())
    rest = means - means.mean(0)
    return float((rest**2).sum() / ((seeds - 1) * seeds) / counts.sum() ** 2 * drawn / (drawn - 1))


def _freedom(*variances: tuple[int, float]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances, each of so many clusters."""
    found = [(count, variance) for count, variance in variances if variance > 0]
    if not found:
        return float(max(1, max(count for count, _ in variances) - 1))
    total = sum(variance for _, variance in found)
    return total**2 / sum(variance**2 / (count - 1) for count, variance in found)


def _wilson(mean: float, variance: float, groups: int, reach: float) -> tuple[float, float]:
    """Return Wilson's interval of a share (Wilson 1927). If no score differs, each group counts as one draw."""
    draws = mean * (1 - mean) / variance if variance and 0 < mean < 1 else float(groups)
    square = reach**2 / draws
    centre = (mean + square / 2) / (1 + square)
    half = math.sqrt(square * mean * (1 - mean) + square**2 / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def check_installed() -> None:
    """Raise VitaError if a package that a comparison needs is not installed: before the trainings, not after them."""
    for name in ("scipy.stats", "jinja2", "plotly.offline"):
        try:
            import_module(name)
        except ImportError as error:
            raise VitaError(
                f"a comparison needs {name.partition('.')[0]}, which cannot be imported: {error}. "
                "Try: `pip install 'vita-core[compare]'`"
            ) from error


def _student() -> Any:
    """Return scipy's t-distribution."""
    return import_module("scipy.stats").t
