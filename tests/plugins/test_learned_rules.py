"""The rules of the reductions that learn, without torch: their sizes, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vita_core import ReductionSpec, VitaError
from vita_core.config.validation import validate
from vita_core.plugins.builtin_reductions.c_abstractor import C_ABSTRACTOR
from vita_core.plugins.builtin_reductions.qformer import QFORMER
from vita_core.plugins.builtin_reductions.resampler import RESAMPLER
from vita_core.plugins.reductions import Sizes
from vita_core.plugins.registry import CORE, import_object


def options_of(spec: ReductionSpec, given: dict[str, Any]) -> dict[str, Any]:
    model = import_object(str(spec.options), requires=None, owner=CORE)
    return validate(model, given, section="tower.reduce[0]").model_dump()


@pytest.mark.parametrize(
    ("spec", "given", "sizes", "after"),
    [
        (RESAMPLER, {}, (32, 32, 1664), (256, 1664)),
        (RESAMPLER, {"width": 4096, "queries": [4, 6]}, (20, 31, 1664), (24, 4096)),
        (RESAMPLER, {"layout": "idefics2"}, (27, 27, 1152), (64, 1152)),
        (RESAMPLER, {"layout": "idefics2", "queries": 7}, (577, 1024), (7, 1024)),
        (RESAMPLER, {"layout": "idefics2", "width": 4096}, (27, 27, 1152), (64, 4096)),
        (QFORMER, {}, (257, 1408), (32, 768)),
        (QFORMER, {"width": 2560, "queries": 8}, (16, 16, 1408), (8, 2560)),
        (C_ABSTRACTOR, {}, (24, 24, 1024), (12, 12, 1024)),
        (C_ABSTRACTOR, {"queries": [6, 8], "width": 4096}, (24, 31, 1024), (6, 8, 4096)),
        (C_ABSTRACTOR, {"queries": 256, "end_tokens": 2}, (24, 24, 1024), (258, 1024)),
    ],
)
def test_sizes(spec: ReductionSpec, given: dict[str, Any], sizes: Sizes, after: Sizes) -> None:
    assert spec.sizes(sizes, options_of(spec, given)) == after


@pytest.mark.parametrize(
    ("spec", "given", "sizes", "message"),
    [
        (RESAMPLER, {"queries": 250}, (4, 4, 16), "queries: 250 do not fill a square. Try: `queries: 225`, or"),
        (RESAMPLER, {"width": 20, "heads": 3}, (4, 4, 16), "3 heads do not divide 20 channels"),
        (RESAMPLER, {"width": 10}, (4, 4, 16), "10 channels cannot hold sines and cosines"),
        (RESAMPLER, {}, (17, 16), "layout qwen places the tokens on a grid, and these have none"),
        (
            RESAMPLER,
            {"layout": "idefics2", "queries": [4, 4]},
            (16, 16),
            "idefics2 have no grid: [4, 4]. Try: `queries: 16`",
        ),
        (RESAMPLER, {"layout": "idefics2", "heads": 6}, (16, 16), "4 kv_heads do not divide 6 heads"),
        (QFORMER, {"hidden_size": 50}, (16, 16), "12 heads do not divide hidden_size 50"),
        (C_ABSTRACTOR, {"queries": 7}, (4, 4, 16), "queries: 7 do not fill a square. Try: `queries: 4`, or"),
    ],
)
def test_a_step_that_is_impossible(spec: ReductionSpec, given: dict[str, Any], sizes: Sizes, message: str) -> None:
    with pytest.raises(VitaError, match=re.escape(message)):
        spec.sizes(sizes, options_of(spec, given))


def test_positions_of_no_square() -> None:
    with pytest.raises(VitaError, match=r"positions: 577 do not fill a square. Try: `positions: 576`"):
        C_ABSTRACTOR.sizes((4, 4, 16), options_of(C_ABSTRACTOR, {"positions": 577}))


@pytest.mark.parametrize(
    ("spec", "given", "message"),
    [
        (RESAMPLER, {"depth": 3}, "layout qwen has no option 'depth'. Try: leave it out, or `layout: idefics2`"),
        (RESAMPLER, {"layout": "idefics2", "post": True}, "layout idefics2 has no option 'post'. Try: leave it out"),
        (
            RESAMPLER,
            {"layout": "idefics2", "mlp_width": 8},
            "'mlp_width' is of the MLP before the layers, which comes with 'width'",
        ),
        (RESAMPLER, {"layout": "perceiver"}, "layout"),
        (RESAMPLER, {"queries": 0}, "queries"),
        (QFORMER, {"width": -1}, "width"),
        (
            C_ABSTRACTOR,
            {"cls_position": True, "positions": False},
            "'cls_position' is set, but 'positions' is false. Try: leave",
        ),
    ],
)
def test_options_that_are_not_valid(spec: ReductionSpec, given: dict[str, Any], message: str) -> None:
    with pytest.raises(VitaError, match=re.escape(message)) as caught:
        options_of(spec, given)
    assert str(caught.value).startswith("tower.reduce[0]")
    assert str(caught.value).count("Try: ") == 1
