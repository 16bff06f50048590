"""Scores against formulas by hand and against scikit-learn itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from vita_core.errors import ConfigError
from vita_core.probing.scores import COSTS, _folds, interval, logistic, nearest_neighbours, patch_ranks


def test_neighbours_vote_by_their_cosine() -> None:
    rng = np.random.default_rng(0)
    train, others = rng.normal(size=(40, 6)), rng.normal(size=(15, 6))
    labels = [f"name {number % 4}" for number in range(40)]
    cosine = (others / np.linalg.norm(others, axis=1, keepdims=True)) @ (
        train / np.linalg.norm(train, axis=1, keepdims=True)
    ).T
    for row, found in zip(cosine, nearest_neighbours(train, labels, others, k=7), strict=True):
        votes: dict[str, float] = {}
        for place in np.argsort(-row)[:7]:
            votes[labels[place]] = votes.get(labels[place], 0) + np.exp(row[place] / 0.07)
        assert found == max(votes, key=lambda label: votes[label])


def test_one_near_neighbour_outweighs_two_far_ones() -> None:
    train = np.array([[1.0, 0.02], [0.2, 1], [0.2, -1]])
    assert nearest_neighbours(train, ["near", "far", "far"], np.array([[1.0, 0]]), k=3) == ["near"]
    assert nearest_neighbours(train, ["near", "far", "far"], np.zeros((0, 2)), k=3) == []


@pytest.mark.parametrize("width", [5, 90])
def test_logistic_regression_is_that_of_scikit_learn(width: int) -> None:
    """Also with more columns than pictures, where the features are rotated first."""
    rng = np.random.default_rng(1)
    labels = [f"name {number % 3}" for number in range(60)]
    means = rng.normal(size=(3, width)) * 10
    train = means[np.arange(60) % 3] + rng.normal(size=(60, width)) * 12
    others = means[np.arange(30) % 3] + rng.normal(size=(30, width)) * 12
    found, cost = logistic(train, labels, range(60), others, seed=4)
    scaled, asked = ((features - train.mean(0)) / train.std(0) for features in (train, others))
    folds = PredefinedSplit(_folds(labels, range(60), 4))
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [*COSTS]}, cv=folds).fit(scaled, labels)
    assert cost == search.best_params_["C"]
    assert found == [*search.predict(asked)]
    assert np.mean([a == f"name {number % 3}" for number, a in enumerate(found)]) > 0.5


def test_scale_and_constant_columns_are_of_no_matter() -> None:
    rng = np.random.default_rng(2)
    labels = ["a", "b"] * 10
    train = rng.normal(size=(20, 3)) + np.array([[0.0], [2.0]] * 10)
    found = logistic(train, labels, range(20), train, seed=0)
    wide = np.concatenate([1000 * train + 5, np.full((20, 1), 7.0)], axis=1)
    assert logistic(wide, labels, range(20), wide, seed=0) == found
    assert logistic(train, labels, range(20), train[:0], seed=0)[0] == []


def test_folds_keep_groups_whole_and_have_every_label() -> None:
    groups = [*range(12), 0, 0, 5]
    labels = [["a", "b"][number % 2] for number in range(12)] + ["a", "a", "b"]
    folds = _folds(labels, groups, seed=0)
    assert all(folds[place] == folds[groups[place]] for place in range(15))
    assert {(label, fold) for label, fold in zip(labels, folds, strict=True)} == {
        (label, fold) for label in "ab" for fold in range(3)
    }


def test_the_interval_of_single_pictures_is_that_of_a_binomial() -> None:
    values = [1.0] * 60 + [0.0] * 40
    low, high = interval(values, range(100), seed=0)
    assert [low, high] == pytest.approx([0.5, 0.69], abs=0.015)  # the quantiles of a binomial of 100 draws at 0.6
    assert interval(values, range(100), seed=0) == (low, high)


def test_equal_values_have_an_interval_too() -> None:
    """Seven of seven: a true share of 0.59 gives that once in forty times."""
    assert interval([1.0] * 7, range(7), seed=0) == pytest.approx((0.025 ** (1 / 7), 1))
    assert interval([0.0] * 8, [*range(4), *range(4)], seed=0) == pytest.approx((0, 1 - 0.025 ** (1 / 4)))
    low, high = interval([0.0] * 7, range(7), seed=0, bounds=(-1, 1))
    assert -low == high == pytest.approx(1 - 0.025 ** (1 / 7))


def test_near_duplicates_widen_the_interval() -> None:
    values, groups = [1.0] * 60 + [0.0] * 40, [number // 10 for number in range(100)]
    low, high = interval(values, groups, seed=0)
    assert [low, high] == pytest.approx([0.3, 0.9], abs=0.01)  # ten draws


def test_a_patch_is_found_at_its_mirrored_place() -> None:
    first = torch.eye(8)[:6]  # 2 rows of 3
    turned = first[[2, 1, 0, 5, 4, 3]]
    assert torch.cat(patch_ranks([first], [turned], [3])).tolist() == [1] * 6
    # as it stands, only the middle column is right; the others find one other patch before, or a tie with all
    assert torch.cat(patch_ranks([first], [first], [3])).tolist() == [6, 1, 6, 6, 1, 6]


def test_patches_of_other_pictures_are_in_the_way() -> None:
    first, second = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[3.0, 0.1], [0, 2]])
    ranks = patch_ranks([first, second], [first.flip(0), second.flip(0)], [2, 2])
    assert [rank.tolist() for rank in ranks] == [[1, 2], [1, 2]]  # the second patches are equal in direction: a tie


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"needs scikit-learn.*Try: `pip install 'vita-core\[compare\]'`"):
        nearest_neighbours(np.ones((3, 2)), ["a"] * 3, np.ones((1, 2)), k=1)
