"""Measures of features against their formulas, written out with numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vita_core.errors import VitaError
from vita_core.probing.measures import linear_cka, rank_me, sink_share


@pytest.mark.parametrize(("first", "second"), [(4, 6), (4, 30), (40, 30)])
def test_cka_is_the_alignment_of_centred_kernels(first: int, second: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, first)) + 5, rng.normal(size=(12, second))
    centre = np.eye(12) - 1 / 12
    k, m = centre @ (a @ a.T) @ centre, centre @ (b @ b.T) @ centre
    expected = (k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum())
    assert linear_cka(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-12)


def test_cka_ignores_rotation_scale_and_mean() -> None:
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    turned, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    assert linear_cka(features, 3 * features @ turned + 7) == pytest.approx(1, abs=1e-6)
    assert linear_cka(features, torch.ones(20, 3)) == 0
    assert linear_cka(features[:0], features[:0]) == 0


@pytest.mark.parametrize("other", [torch.ones(3, 2), torch.ones(4)])
def test_cka_needs_rows_of_the_same_pictures(other: torch.Tensor) -> None:
    with pytest.raises(VitaError, match="the same pictures"):
        linear_cka(torch.ones(4, 2), other)


def test_rank_me_is_the_exponential_of_the_entropy() -> None:
    assert rank_me(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    assert rank_me(torch.ones(8, 3)) == pytest.approx(1, rel=1e-4)
    assert rank_me(torch.zeros(8, 3)) == 0
    features = np.random.default_rng(0).normal(size=(10, 4))
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum() + 1e-7
    assert rank_me(torch.from_numpy(features)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-12)


def test_sinks_are_over_four_times_the_median() -> None:
    assert sink_share(torch.tensor([1.0, 1, 1, 1, 4, 4.1, 9, 1, 1, 1])) == 0.2
    assert sink_share(torch.zeros(0)) == 0
