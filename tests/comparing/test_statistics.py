"""The intervals and tests of a comparison, against the formulas of textbooks and against simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vita_core.comparing.statistics import Estimate, estimate, holm, needed_groups


def test_one_seed_gives_the_interval_of_a_t_test() -> None:
    values = np.random.default_rng(3).normal(0.2, 1, 60)
    found = estimate(values[None], range(60), resamples=200_000)
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.mean, found.freedom) == (pytest.approx(values.mean()), 59)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, expected.pvalue), rel=0.01, abs=0.003)


def test_a_group_counts_as_one_draw() -> None:
    values = np.random.default_rng(4).normal(size=(1, 30))
    once = estimate(values, range(30))
    twice = estimate(np.repeat(values, 2, axis=1), [number for number in range(30) for _ in range(2)])
    assert (twice.mean, twice.error, twice.freedom) == pytest.approx((once.mean, once.error, once.freedom))


def test_the_variance_is_that_of_a_two_way_random_model() -> None:
    """The mean squares of a two-way analysis of variance give the variance of the grand mean."""
    rng, seeds, pictures = np.random.default_rng(5), 4, 50
    values = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, pictures)) + rng.normal(size=(seeds, pictures))
    of_seeds = pictures * values.mean(1).var(ddof=1)
    of_pictures = seeds * values.mean(0).var(ddof=1)
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    of_rest = (rest**2).sum() / ((seeds - 1) * (pictures - 1))
    expected = (of_seeds + of_pictures - of_rest) / (seeds * pictures)
    assert estimate(values, range(pictures), resamples=100_000).error ** 2 == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("seeds", "pictures", "of_seed", "of_picture"), [(1, 25, 0.0, 1.0), (3, 30, 0.2, 1.0), (5, 40, 0.0, 0.5)]
)
def test_95_of_100_intervals_hold_the_truth(seeds: int, pictures: int, of_seed: float, of_picture: float) -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        seed, picture = rng.normal(size=(seeds, 1)), rng.normal(size=(1, pictures))
        scores = 0.3 + of_seed * seed + of_picture * picture + rng.normal(size=(seeds, pictures))
        found = estimate(scores, range(pictures), resamples=500)
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / 400 <= 0.985


def test_95_of_100_intervals_of_a_share_hold_the_truth() -> None:
    rng, hits = np.random.default_rng(2), 0
    for _ in range(400):
        chance = rng.beta(0.2, 1.8, size=(1, 30))  # some pictures are easy for every seed
        scores = (rng.random((3, 30)) < chance).astype(float)
        found = estimate(scores, range(30), share=True, resamples=300)
        assert 0 <= found.low <= found.mean <= found.high <= 1
        hits += found.low <= 0.1 <= found.high
    assert 0.93 <= hits / 400 <= 0.99


def test_a_share_of_nothing_has_an_interval() -> None:
    found = estimate(np.zeros((3, 20)), range(20), share=True)
    low, high = stats.binomtest(0, 20).proportion_ci(method="wilson")
    assert found.low == low == 0
    assert found.high == pytest.approx(high, rel=0.15)  # with the quantile of t instead of the normal one


def test_holm_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979, by hand
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_so_many_pictures_as_are_needed_show_the_difference() -> None:
    rng = np.random.default_rng(6)
    few = estimate(rng.normal(0.3, 1, (1, 30)), range(30))
    needed = needed_groups(few, 30)
    assert needed is not None
    seen = sum(
        estimate(rng.normal(few.mean, 1, (1, needed)), range(needed), resamples=300).p < 0.05 for _ in range(300)
    )
    assert 0.7 <= seen / 300 <= 0.9  # 80% is the promise


def test_more_pictures_do_not_help_where_seeds_differ() -> None:
    assert needed_groups(Estimate(0.1, -1, 1, 0.9, 0.5, 2, pictures=0.01, seeds=0.2), 30) is None
    assert needed_groups(Estimate(0.0, -1, 1, 1.0, 0.5, 9, pictures=0.01, seeds=0.0), 30) is None


def test_equal_draws_are_no_proof() -> None:
    """Four pictures that all differ by one: the sign test, which no rounding of the mean changes."""
    assert estimate(np.ones((1, 4)), range(4), resamples=100).p == 2 * 0.5**4
    assert estimate(np.full((3, 4), 1 / 3), range(4), resamples=100).p == 2 * 0.5**4
    assert estimate(np.zeros((1, 4)), range(4), resamples=100).p == 1.0
