"""Tokens as colours, against principal components by numpy."""

from __future__ import annotations

import numpy as np
import torch

from vita_core.towers.colours import pca_colours


def test_colours_are_principal_components_of_all_pictures() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(12, 9)) * range(1, 10), rng.normal(size=(6, 9)) * range(1, 10)
    found = pca_colours([torch.from_numpy(first), torch.from_numpy(second)])
    assert [len(part) for part in found] == [12, 6]
    whole = np.concatenate([first, second])
    centred = whole - whole.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:3]
    directions *= np.sign(directions[range(3), np.abs(directions).argmax(1)])[:, None]
    values = centred @ directions.T
    expected = (values - values.min(0)) / (values.max(0) - values.min(0)) * 255
    assert np.abs(torch.cat(found).numpy() - expected).max() <= 0.51


def test_few_or_equal_channels_are_black() -> None:
    (two,) = pca_colours([torch.tensor([[0.0, 1], [1, 0], [2, 5], [3, 2]])])
    assert not two[:, 2].any()
    assert two[:, 0].max() == 255
    (flat,) = pca_colours([torch.ones(4, 5)])
    assert not flat.any()
