"""What every projector with a rule for its tokens must do: as many tokens as the rule says, in their order, with gradients."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vita_core import ProjectorSpec, VitaError
from vita_core.config.schema import ProjectorConfig
from vita_core.language.projectors import build_projector
from vita_core.planning.projectors import ResolvedProjector, resolve_projector
from vita_core.plugins.registry import registry

CPU = torch.device("cpu")
FEWER = [found.spec.name for found in registry().all(ProjectorSpec) if found.spec.tokens is not None]
GRIDS = [(6, 6), (5, 5), (4, 6), (2, 8), (8, 2), (3, 8), (7, 3), (1, 4), (5, 1), (1, 1)]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ldpv2": [{}, {"grid": 2}, {"grid": [3, 2]}],
    "patch_merger": [{}, {"spatial_merge_size": 3}],
}
CASES = [(name, options) for name in FEWER for options in OPTIONS.get(name, [{}])]
JOINING = ["minigpt", "vanilla"]
UNUSED = {"spp_v1": ["linear_0.weight", "linear_0.bias"], "spp_v2": ["linear_0.weight", "linear_0.bias"]}
"""Parameters that the original's checkpoints hold and its code does not use."""


def built(name: str, options: dict[str, Any]) -> tuple[nn.Module, ResolvedProjector]:
    torch.manual_seed(0)
    resolved = resolve_projector(ProjectorConfig(type=name, options=options), 6, 8)
    return build_projector(resolved, 8, dtype=torch.float32, device=CPU).eval(), resolved


def run(module: nn.Module, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The module's output, with the grid if it declares one."""
    takes_grid = "grid" in inspect.signature(module.forward).parameters
    output: torch.Tensor = module(tokens, grid=grid) if takes_grid else module(tokens)
    return output


def planned(resolved: ResolvedProjector, grid: tuple[int, int]) -> tuple[int, int] | int:
    rule = resolved.spec.tokens
    assert rule is not None
    options = {"options": resolved.options} if "options" in inspect.signature(rule).parameters else {}
    return rule(*grid, **options)


def attempt(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or its VitaError."""
    try:
        return call()
    except VitaError as error:
        return error


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_as_many_tokens_as_planned(name: str, options: dict[str, Any], grid: tuple[int, int]) -> None:
    module, resolved = built(name, options)
    tokens = torch.randn(2, grid[0] * grid[1], 6)
    found, output = attempt(lambda: planned(resolved, grid)), attempt(lambda: run(module, tokens, grid))
    if isinstance(found, VitaError):
        assert str(found).startswith("projector.")
        assert isinstance(output, VitaError)
    else:
        assert output.shape == (2, found if isinstance(found, int) else found[0] * found[1], 8)


def test_grids_that_cannot_be_are_told() -> None:
    for name, grid, message in (
        ("minigpt", (5, 5), r"^projector.type: .* but the tower gives 5 x 5 = 25, not a multiple of 4\. Try: "),
        ("spp_v1", (1, 4), r"^projector.type: 'spp' averages 2 x 2 tokens, but the tower gives 1 x 4\. Try: "),
        (
            "patch_merger",
            (4, 5),
            r"^projector.options.spatial_merge_size: 2 does not divide the tower's 4 x 5 tokens\. Try",
        ),
    ):
        with pytest.raises(VitaError, match=message):
            planned(built(name, {})[1], grid)
    with pytest.raises(
        VitaError, match=r"works on a grid, but 12 tokens do not fill 3 x 3\. Try: pass the tokens' `grid="
    ):
        built("spp_v1", {})[0](torch.randn(1, 12, 6))
    with pytest.raises(VitaError, match=r"12 tokens do not fill 4 x 4"):
        built("ldpv2", {})[0](torch.randn(1, 12, 6), grid=(4, 4))


@pytest.mark.parametrize("name", sorted(FEWER))
def test_all_that_is_used_gets_a_gradient(name: str) -> None:
    module, _ = built(name, {})
    tokens = torch.randn(2, 24, 6, requires_grad=True)
    run(module.requires_grad_(True), tokens, (4, 6)).square().sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad != 0).any(-1).all()  # every token counts
    still = [key for key, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert still == UNUSED.get(name, [])


@pytest.mark.parametrize("name", sorted(FEWER))
def test_pictures_of_a_batch_do_not_mix(name: str) -> None:
    module, _ = built(name, {})
    tokens = torch.randn(3, 24, 6)
    together = run(module, tokens, (4, 6))
    for one, expected in zip(tokens, together, strict=True):
        torch.testing.assert_close(run(module, one[None], (4, 6))[0], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in sorted(FEWER) if not name.startswith("ldp")])
def test_a_token_goes_where_it_lies(name: str) -> None:
    """On 4 x 6 tokens; `ldp` looks at the whole picture, and `ldpv2` has a test of its own arithmetic."""
    module, _ = built(name, {})
    tokens = torch.randn(1, 24, 6)
    before = run(module, tokens, (4, 6))
    for row, column in itertools.product(range(4), range(6)):
        index = 6 * row + column
        changed = tokens.clone()
        changed[0, index] += 1 + torch.arange(6)
        (moved,) = (run(module, changed, (4, 6)) != before)[0].any(-1).nonzero(as_tuple=True)
        assert moved.tolist() == [index // 4 if name in JOINING else 3 * (row // 2) + column // 2]
