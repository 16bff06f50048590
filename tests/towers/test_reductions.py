"""The steps of `tower.reduce`: their sizes, their values, and the errors of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vita_core import ReductionSpec, VitaError, build_tower, make_plan, register
from vita_core.plugins.registry import registry

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"


def tower_of(**settings: Any) -> Any:
    return build_tower({"weights": str(GOLDEN / "siglip"), **settings})


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, *tower_of().shape.image_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def maps(pixels: Tensor) -> Tensor:
    """The tokens of the golden SigLIP as maps (B, C, 4, 4)."""
    tower = tower_of()
    tokens: Tensor = tower(pixels)
    return tokens.transpose(1, 2).unflatten(2, tower.grid)


def flat(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


CASES: dict[str, Any] = {
    "average of a window": ({"type": "pool", "window": 2}, lambda x: F.avg_pool2d(x, 2)),
    "average of a window that is not square": ({"type": "pool", "window": [1, 2]}, lambda x: F.avg_pool2d(x, (1, 2))),
    "largest of a window": ({"type": "pool", "window": 2, "kind": "max"}, lambda x: F.max_pool2d(x, 2)),
    "a grid": ({"type": "pool", "grid": [2, 3]}, lambda x: F.adaptive_avg_pool2d(x, (2, 3))),
    "the largest to a grid": ({"type": "pool", "grid": 3, "kind": "max"}, lambda x: F.adaptive_max_pool2d(x, 3)),
    "interpolation": (
        {"type": "interpolate", "grid": [3, 5]},
        lambda x: F.interpolate(x, (3, 5), mode="bilinear", align_corners=False),
    ),
    "bicubic interpolation": (
        {"type": "interpolate", "grid": 2, "mode": "bicubic"},
        lambda x: F.interpolate(x, (2, 2), mode="bicubic", align_corners=False),
    ),
}


@pytest.mark.parametrize(("step", "expected"), CASES.values(), ids=list(CASES))
def test_steps_give_what_torch_gives(step: dict[str, Any], expected: Any, pixels: Tensor, maps: Tensor) -> None:
    tower, wanted = tower_of(reduce=step), expected(maps)
    torch.testing.assert_close(tower(pixels), flat(wanted))
    assert (tower.grid, tower.num_tokens) == (tuple(wanted.shape[2:]), wanted[0, 0].numel())
    plan = make_plan({"tower": {"weights": str(GOLDEN / "siglip"), "reduce": step}})
    assert (plan.grid, plan.tokens) == (tower.grid, tower.num_tokens)
    assert plan.stages[-1].shape == (1, plan.tokens, tower.hidden_size)


def test_the_shorthands_are_two_of_the_types(pixels: Tensor) -> None:
    for short, step in (
        ({"pixel_shuffle": 0.5}, {"type": "pixel_shuffle", "scale_factor": 0.5}),
        ({"pool": [2, 1]}, {"type": "pool", "grid": [2, 1]}),
    ):
        assert torch.equal(tower_of(**short)(pixels), tower_of(reduce=step)(pixels))
    both = tower_of(pixel_shuffle=0.5, pool=1, reduce=[{"type": "interpolate", "grid": 3}])
    assert [step.key for step in both.resolved.geometry.reductions] == [
        "tower.pixel_shuffle",
        "tower.pool",
        "tower.reduce[0]",
    ]
    assert both.grid == (3, 3)


def test_the_order_v1_of_pixel_shuffle_transposes_the_map() -> None:
    """A 2 x 4 map whose token r * 4 + c is [10 r + c], computed by hand."""
    tokens = torch.tensor([[[10.0 * row + col] for row in range(2) for col in range(4)]])
    made = registry().find(ReductionSpec, "pixel_shuffle").spec
    from vita_core.towers.reductions.spatial import PixelShuffle

    for order, grid, expected in (
        ("v2", (1, 2), [[0, 1, 10, 11], [2, 3, 12, 13]]),
        ("v1", (2, 1), [[0, 1, 10, 11], [2, 3, 12, 13]]),
    ):
        options = {"scale_factor": 0.5, "order": order}
        assert made.sizes((2, 4, 1), options) == (*grid, 4)
        assert PixelShuffle((2, 4, 1), options)(tokens, (2, 4)).tolist() == [expected]
    square = torch.arange(16.0).reshape(1, 16, 1)
    first = PixelShuffle((4, 4, 1), {"scale_factor": 0.5, "order": "v1"})(square, (4, 4))
    assert first[0, :, 0].tolist() == [0, 8, 2, 10]  # v2: 0, 2, 8, 10


BAD: dict[str, Any] = {
    "unknown type": ({"type": "pol"}, r"^tower\.reduce\[0\]\.type: unknown reduction: 'pol'\. Did you mean 'pool'"),
    "both": ({"type": "pool", "grid": 2, "window": 2}, r"tower\.reduce\[0\]: .*'grid' and 'window' exclude each other"),
    "neither": ({"type": "pool"}, r"tower\.reduce\[0\]: .*neither 'grid' nor 'window' is set"),
    "a window that does not divide": (
        {"type": "pool", "window": 3},
        r"tower\.reduce\[0\]: a window of 3 x 3 does not divide",
    ),
    "a larger grid": ({"type": "pool", "grid": 9}, r"tower\.reduce\[0\]: 9 x 9 is larger than the grid of 4 x 4"),
    "a factor that does not divide": (
        {"type": "pixel_shuffle", "scale_factor": 1 / 3},
        r"tower\.reduce\[0\]: .*divisible by 3",
    ),
    "an unknown option": (
        {"type": "interpolate", "grid": 2, "mod": "area"},
        r"unknown key: 'mod'.*Did you mean 'mode'",
    ),
    "weights": ({"type": "pool", "window": 2, "weights": "x"}, r"tower\.reduce\[0\]\.weights: 'pool' has no weights"),
    "blocks": (
        {"type": "pool", "window": 2, "blocks": [1]},
        r"tower\.reduce\[0\]\.blocks: 'pool' only runs after the encoder",
    ),
    "two places": (
        {"type": "pool", "window": 2, "where": "after", "blocks": [1]},
        r"'where' and 'blocks' exclude each other",
    ),
    "no type": ({"window": 2}, r"required key is missing: 'tower\.reduce\.type'"),
}


@pytest.mark.parametrize(("step", "message"), BAD.values(), ids=list(BAD))
def test_the_plan_refuses_impossible_steps(step: dict[str, Any], message: str) -> None:
    with pytest.raises(VitaError, match=message) as error:
        make_plan({"tower": {"weights": str(GOLDEN / "siglip"), "reduce": step}})
    assert str(error.value).count("Try: ") == 1


class Mean(nn.Module):
    """The mean of all tokens, and of the first half: two tokens without a grid."""

    def __init__(self, sizes: tuple[int, ...], options: Any) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, grid: Any) -> Tensor:
        half = tokens[:, : tokens.shape[1] // 2]
        return torch.stack([tokens.mean(1), half.mean(1)], dim=1)


def sizes_of_mean(sizes: tuple[int, ...], options: Any) -> tuple[int, ...]:
    return 2, sizes[-1]


@pytest.fixture
def mean_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "_specs", [*registry()._specs])
    register(ReductionSpec("mean", "two means", f"{__name__}:Mean", sizes_of_mean, "none", spatial=False))


@pytest.mark.usefixtures("mean_registered")
def test_a_step_may_leave_no_grid(pixels: Tensor, maps: Tensor) -> None:
    tower = tower_of(reduce=[{"type": "pool", "window": 2}, {"type": "mean"}])
    assert (tower.grid, tower.num_tokens) == (None, 2)
    torch.testing.assert_close(tower(pixels)[:, 0], flat(F.avg_pool2d(maps, 2)).mean(1))
    with pytest.raises(VitaError, match=r"tower\.reduce\[1\]: 'pool' needs the grid of the tokens"):
        tower_of(reduce=[{"type": "mean"}, {"type": "pool", "window": 1}])
    plan = make_plan({"tower": {"weights": str(GOLDEN / "siglip"), "reduce": {"type": "mean"}}})
    assert (plan.grid, plan.tokens) == (None, 2)


@pytest.mark.usefixtures("mean_registered")
def test_a_kept_cls_token_is_reduced_with_the_patches() -> None:
    tower = build_tower({"weights": str(GOLDEN / "clip"), "select_feature": "cls_patch", "reduce": {"type": "mean"}})
    pixels = torch.randn(1, 3, *tower.shape.image_size)
    whole = build_tower({"weights": str(GOLDEN / "clip"), "select_feature": "cls_patch"})
    torch.testing.assert_close(tower(pixels)[:, 0], whole(pixels).mean(1))
    with pytest.raises(VitaError, match=r"tower\.reduce\[0\]: it cannot be used with select_feature 'cls_patch'"):
        build_tower(
            {"weights": str(GOLDEN / "clip"), "select_feature": "cls_patch", "reduce": {"type": "pool", "window": 2}}
        )


def test_a_module_that_gives_other_sizes_is_an_error(monkeypatch: pytest.MonkeyPatch, pixels: Tensor) -> None:
    monkeypatch.setattr(registry(), "_specs", [*registry()._specs])
    wrong = ReductionSpec(
        "wrong", "x", f"{__name__}:Mean", lambda sizes, options: (3, sizes[-1]), "none", spatial=False
    )
    register(wrong)
    with pytest.raises(
        VitaError, match=r"tower\.reduce\[0\]: 'wrong' gives \(2, 2, \d+\), but \(2, 3, \d+\) is planned"
    ):
        tower_of(reduce={"type": "wrong"})(pixels)


class Turned(nn.Module):
    """Tokens and channels exchanged: as many values, in the wrong places."""

    def __init__(self, sizes: tuple[int, ...], options: Any) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, grid: Any) -> Tensor:
        return tokens.transpose(1, 2)


class Learns(Turned):
    """It never runs."""


def test_an_output_of_other_places_is_an_error(monkeypatch: pytest.MonkeyPatch, pixels: Tensor) -> None:
    monkeypatch.setattr(registry(), "_specs", [*registry()._specs])
    register(ReductionSpec("turned", "x", f"{__name__}:Turned", lambda sizes, _: sizes, "none"))
    with pytest.raises(VitaError, match=r"'turned' gives \(2, 32, 16\), but \(2, 16, 32\) is planned"):
        tower_of(reduce={"type": "turned"})(pixels)


def test_one_that_learns_does_not_run_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry(), "_specs", [*registry()._specs])
    name = f"{__name__}:Learns"
    register(ReductionSpec("learns", "x", name, lambda s, _: s, "none", parameters=lambda s, _: 1, inside=name))
    with pytest.raises(VitaError, match=r"tower\.reduce\[0\]\.blocks: 'learns' has weights, so it only runs after"):
        make_plan({"tower": {"weights": str(GOLDEN / "siglip"), "reduce": {"type": "learns", "blocks": [1]}}})
