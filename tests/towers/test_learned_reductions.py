"""Reductions that learn: equal to the implementation they come from under its own keys, and of the planned size and cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vita_core import ReductionSpec, count_macs, parameter_count
from vita_core.config.validation import validate
from vita_core.loading import KeyRules
from vita_core.plugins.builtin_reductions import c_abstractor, qformer, resampler
from vita_core.plugins.reductions import Sizes
from vita_core.plugins.registry import CORE, import_object

QWEN = {"queries": 9, "width": 16, "heads": 2}
IDEFICS2 = {"layout": "idefics2", "queries": 5, "depth": 2, "heads": 4, "head_width": 6, "kv_heads": 2}
QFORMER = {"queries": 5, "hidden_size": 16, "depth": 3, "heads": 4, "mlp_width": 24}
HONEYBEE = {"queries": 4, "hidden_size": 16, "depth": 2, "width": 20}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen": (resampler, QWEN),
    "qwen-same-width": (resampler, {"queries": [2, 3], "heads": 3, "post": False}),
    "qwen-adaptive": (resampler, QWEN | {"adaptive": True}),
    "idefics2": (resampler, IDEFICS2),
    "idefics2-projected": (resampler, IDEFICS2 | {"width": 20, "mlp_width": 7}),
    "qformer": (qformer, QFORMER),
    "qformer-projected": (qformer, QFORMER | {"width": 20, "cross_every": 1}),
    "c_abstractor": (c_abstractor, HONEYBEE),
    "c_abstractor-extras": (
        c_abstractor,
        {
            "queries": [2, 3],
            "hidden_size": 12,
            "depth": 1,
            "mlp_depth": 3,
            "prenorm": True,
            "end_tokens": 2,
            "positions": [3, 3],
        },
    ),
    "c_abstractor-flat": (c_abstractor, {"queries": 4, "depth": 0, "mlp_depth": 1, "positions": False}),
}
SIZES: list[Sizes] = [(4, 4, 12), (3, 5, 12), (6, 2, 12)]


def spec_of(rules: Any) -> ReductionSpec:
    return next(value for value in vars(rules).values() if isinstance(value, ReductionSpec))


def named(place: str | None) -> Any:
    return import_object(str(place), requires=None, owner=CORE)


def prepared(rules: Any, given: dict[str, Any], sizes: Sizes) -> tuple[ReductionSpec, dict[str, Any], nn.Module]:
    """The spec, the validated options, and the module with random weights: those that start as 0 or 1 would hide errors."""
    spec = spec_of(rules)
    options = validate(named(spec.options), given).model_dump()
    torch.manual_seed(0)
    module = named(spec.factory)(sizes, options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return spec, options, module


def tokens_of(sizes: Sizes, batch: int = 2) -> Tensor:
    return torch.randn(batch, math.prod(sizes[:-1]), sizes[-1], generator=torch.Generator().manual_seed(1))


def grid_of(sizes: Sizes) -> tuple[int, ...] | None:
    return sizes[:-1] if len(sizes) == 3 else None


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    return CASES[request.param]


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes_parameters_and_macs_are_those_planned(case: tuple[Any, dict[str, Any]], sizes: Sizes) -> None:
    spec, options, module = prepared(*case, sizes)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == case[0].tensors(sizes, options)
    assert spec.parameters is not None
    assert spec.macs is not None
    assert parameter_count(module) == spec.parameters(sizes, options)
    meta = module.to("meta")  # the counter does not know the attention of CPUs
    reduced, spent = count_macs(lambda: meta(tokens_of(sizes, 1).to("meta"), sizes[:2]))
    assert spent[-1] == spec.macs(sizes, options)
    *places, width = spec.sizes(sizes, options)
    assert reduced.shape == (1, math.prod(places), width)


def test_its_own_keys_stay_as_they_are(case: tuple[Any, dict[str, Any]]) -> None:
    """A file that is saved after training is read by the rules for published checkpoints."""
    spec, _, module = prepared(*case, (4, 4, 12))
    rules = KeyRules(spec.renames, (), spec.skips)
    assert [key for key in module.state_dict() if rules.renamed(key) != key or rules.skipped(key) is not None] == []


@pytest.mark.parametrize("sizes", SIZES)
def test_another_grid_than_the_planned_one(case: tuple[Any, dict[str, Any]], sizes: Sizes) -> None:
    spec, options, module = prepared(*case, (5, 4, 12))
    *places, width = spec.sizes(sizes, options)
    assert module(tokens_of(sizes), sizes[:2]).shape == (2, math.prod(places), width)


def test_every_weight_and_the_tokens_get_a_gradient(case: tuple[Any, dict[str, Any]]) -> None:
    *_, module = prepared(*case, (4, 4, 12))
    tokens = tokens_of((4, 4, 12)).requires_grad_()
    module(tokens, (4, 4)).square().sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum(-1).min() > 0
    # the bias of the keys adds the same to all scores of a query, so its gradient is zero up to rounding
    learned = {key: value.grad for key, value in module.named_parameters() if not key.endswith(".key.bias")}
    assert all(gradient is not None and gradient.any() for gradient in learned.values())


def test_a_picture_alone_is_as_in_a_batch(case: tuple[Any, dict[str, Any]]) -> None:
    *_, module = prepared(*case, (4, 4, 12))
    tokens = tokens_of((4, 4, 12), 3)
    torch.testing.assert_close(module(tokens[1:2], (4, 4)), module(tokens, (4, 4))[1:2], rtol=0, atol=1e-5)
