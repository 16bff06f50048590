"""Which grid a projector gets, in every call: pictures, videos, tiles, native resolution and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from natives import SIZES, picture, saved_timm
from torch import nn

from vita_core import build_model
from vita_core.language.projectors import project
from vita_core.training.align import collate, projected


class Seen(nn.Module):
    """Projects to the rows and columns that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: list[Any] = []

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        self.grids.append((len(tokens), grid))
        return tokens


class Old(nn.Module):
    """As projectors were before there was a grid; one takes any keyword, but declares none."""

    def forward(self, tokens: torch.Tensor, **more: Any) -> torch.Tensor:
        assert not more
        return tokens + 1


def test_a_module_gets_the_grid_only_if_it_declares_it() -> None:
    tokens = torch.randn(2, 12, 4)
    assert torch.equal(project(Old(), tokens, (3, 4)), tokens + 1)
    linear = nn.Linear(4, 5)
    assert torch.equal(project(linear, tokens, (3, 4)), linear(tokens))
    for grid, expected in (((3, 4), (3, 4)), (None, None), ((3, 3), None)):  # CLS is beside the grid
        seen = Seen()
        assert torch.equal(project(seen, tokens, grid), tokens)
        assert seen.grids == [(2, expected)]
    wrapped = nn.DataParallel(Seen())
    project(wrapped, tokens, (3, 4))
    assert wrapped.module.grids == [(2, (3, 4))]


def test_each_step_of_a_video_is_projected_by_itself() -> None:
    tokens, seen = torch.randn(2, 3 * 2 * 4, 5), Seen()
    assert torch.equal(project(seen, tokens, (3, 2, 4)), tokens)
    assert seen.grids == [(6, (2, 4))]

    class Rows(nn.Module):
        def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
            return tokens.unflatten(1, grid).mean(2)

    expected = tokens.reshape(2, 3, 2, 4, 5).mean(3).reshape(2, 6, 5)
    torch.testing.assert_close(project(Rows(), tokens, (3, 2, 4)), expected)
    assert project(Rows(), tokens[:0], (3, 2, 4)).shape == (0, 6, 5)


def test_training_joins_samples_of_equal_grids() -> None:
    samples = [
        {"features": torch.randn(rows * cols + extra, 4), "grid": torch.tensor(grid), "answer_ids": torch.tensor([1])}
        for rows, cols, extra, grid in ((3, 4, 0, (3, 4)), (4, 3, 0, (4, 3)), (3, 4, 0, (3, 4)), (2, 6, 0, (0, 0)))
    ]
    seen = Seen()
    for tokens, sample in zip(projected(seen, collate(samples)), samples, strict=True):
        assert torch.equal(tokens, sample["features"])
    assert sorted(seen.grids, key=str) == [(1, (4, 3)), (1, None), (2, (3, 4))]


@pytest.mark.parametrize("aspect", ["square", "pad"])
def test_each_picture_of_native_resolution_has_its_own_grid(tiny_llm: Path, tmp_path: Path, aspect: str) -> None:
    saved_timm(tmp_path)
    config = {"tower": {"weights": str(tmp_path)}, "images": {"aspect": aspect}, "llm": {"weights": str(tiny_llm)}}
    model = build_model({**config, "projector": {"type": "spp_v1"}, "device": "cpu"})
    seen = Seen()
    model.projector = seen
    pixels = [model.prepare(picture(*size)).pixels for size in SIZES]
    grids = [(1, tuple(side // 16 for side in each.shape[-2:])) for each in pixels]
    with torch.no_grad():
        model.encode_each(pixels)
    assert seen.grids == grids
    assert model.tower.resolved.patches_per_token == 1
