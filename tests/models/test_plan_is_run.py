"""What `vita plan` says of a picture's tokens is what the model gives, where encoders, reductions and tiles come together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from natives import SIZES, picture, saved_timm, saved_transformers

from vita_core import build_model, build_tower, make_plan
from vita_core.errors import ConfigError
from vita_core.planning.native import of_picture
from vita_core.planning.resolution import resolve

Examples = dict[str, dict[str, Any]]
ONE = {"grids": [[1, 2], [2, 1], [1, 5]], "merge": "spatial"}
FIXED = {"type": "token_merging", "tokens": 1}
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "a native part on a fixed grid": ([{"reduce": {"type": "interpolate", "grid": 2}}, {}], {}, {}),
    "on a larger one": ([{"reduce": {"type": "interpolate", "grid": 8}}, {}], {}, {}),
    "on a larger one, pooled": ([{"reduce": {"type": "interpolate", "grid": [4, 8]}}, {}], {"pool": [2, 4]}, {}),
    "pooled, and pooled as one": ([{"reduce": {"type": "pool", "window": 2}}, {}], {"reduce": {"type": "pool", "window": 2}}, {}),
    "pooled tiles": ([{"reduce": {"type": "interpolate", "grid": 2}}, {}], {}, {"tiles": {"max": 4}}),
    "a fixed number of tokens": ([{"reduce": FIXED}, {"reduce": FIXED}], {}, {}),
    "in turn": ([{"reduce": FIXED}, {"reduce": FIXED}], {"combine": "interleave"}, {}),
    "one behind the other": ([{"reduce": FIXED}, {}], {"combine": "sequence"}, {}),
    "a share of the tokens": ([{"reduce": {"type": "token_merging", "ratio": 0.5}}, {}], {"combine": "sequence"}, {}),
    "shrunk maps of wide tiles": ([{}, {}], {"grid": [2, 5]}, {"anyres": ONE | {"shrink_to": 1}}),
    "shrunk maps of one token a tile": ([{}, {}], {"grid": [1, 1]}, {"anyres": ONE | {"shrink_to": 1}}),
}  # fmt: skip


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tower of native resolution with up to 25 patches of 16 pixels and tokens of width 32."""
    folder = tmp_path_factory.mktemp("naflex")
    saved_timm(folder)
    return {"weights": str(folder)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("swapped", [False, True], ids=["first", "second"])
def test_every_picture_has_the_planned_tokens(
    name: str, swapped: bool, naflex: dict[str, Any], tower_examples: Examples, tiny_llm: Path
) -> None:
    """An encoder of native resolution and CLIP; `swapped`: CLIP is the first part."""
    (first, second), whole_keys, images = CASES[name]
    towers = [naflex | first, tower_examples["clip"] | second]
    if swapped and "ratio" not in str(first):
        towers.reverse()
    config = {"tower": {"towers": towers, **whole_keys}, "images": images, "llm": {"weights": str(tiny_llm)}}
    model = build_model(config | {"device": "cpu"})
    for size in SIZES:
        plan, prepared = make_plan(model.resolved, picture=size), model.prepare(picture(*size))
        with torch.no_grad():
            tokens = model.encode_each([prepared.pixels])[0]
            assert [len(tokens), *tokens.shape[1:]] == [plan.tiles, *plan.stages[-2].shape[1:]]
            assert sum(map(len, model.pack(tokens, prepared.size))) == plan.tokens


def test_numbers_of_tokens_that_follow_the_picture_are_not_joined(
    naflex: dict[str, Any], tower_examples: Examples
) -> None:
    """The two are equal for a square picture, and for no other."""
    parts = [
        naflex | {"reduce": {"type": "token_merging", "ratio": 0.5}},
        tower_examples["clip"] | {"reduce": {"type": "token_merging", "tokens": 13}},
    ]
    for combine in ("channel", "sum"):
        with pytest.raises(
            ConfigError, match=f"^tower.combine: '{combine}' joins tokens without a grid one by one, but a part"
        ):
            make_plan({"tower": {"towers": parts, "combine": combine}})
    pooled = {"towers": [naflex | {"reduce": {"type": "interpolate", "grid": 2}}, tower_examples["clip"]]}
    with pytest.raises(
        ConfigError, match=r"^images\.max_tokens: tower 'fused' gives every picture 4 tokens\. Try: leave it"
    ):
        make_plan({"tower": pooled, "images": {"max_tokens": 9}})


def test_row_tokens_do_not_go_with_tiles_that_are_joined(tower_examples: Examples, tiny_llm: Path) -> None:
    config = {
        "tower": tower_examples["clip"],
        "llm": {"weights": str(tiny_llm)},
        "prompt": {"row_tokens": ["red", "blue"]},
    }
    for merge in ("flat", "spatial"):
        with pytest.raises(ConfigError, match=r"^prompt\.row_tokens: they stand behind the rows of one picture, but"):
            resolve(config | {"images": {"anyres": {"grids": [[1, 2]], "merge": merge}}})


def test_a_budget_of_native_resolution_in_both_parts(naflex: dict[str, Any], tmp_path: Path) -> None:
    saved_transformers("pixtral", tmp_path)
    pooled = {"weights": str(tmp_path), "reduce": {"type": "pool", "window": 2}}
    plan = make_plan({"tower": {"towers": [pooled, naflex]}, "images": {"max_tokens": 9}})
    assert (plan.budget, plan.grid) == ((1, 9), (3, 3))


@pytest.mark.parametrize("first", [0, 1])
def test_each_part_of_native_resolution_resizes_the_picture_itself(
    first: int, naflex: dict[str, Any], tmp_path: Path
) -> None:
    """Not what the first part made of it: the budgets and the blocks of the two are others."""
    saved_transformers("pixtral", tmp_path)
    towers = [naflex, {"weights": str(tmp_path)}]
    model = build_tower({"towers": [towers[first], towers[1 - first]], "combine": "sequence"})
    for size in SIZES:
        (pixels,) = model.image_processor.preprocess([picture(*size)], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            found = model([pixels])[0].shape[1]
        plan = make_plan({"tower": model.settings.model_dump(exclude_unset=True)}, picture=size)
        assert plan.tokens == found, size


@pytest.mark.parametrize(
    ("step", "most"),
    [
        ({"type": "token_merging", "ratio": 0.4}, 10),
        ([{"type": "pool", "window": 2}, {"type": "token_merging", "ratio": 0.5}], 12),
        ({"type": "resampler", "queries": 4, "width": 16, "heads": 2}, 4),
    ],
    ids=["merged", "pooled and merged", "queries"],
)
def test_the_most_tokens_are_those_of_the_largest_picture(step: Any, most: int, naflex: dict[str, Any]) -> None:
    """A wide picture may have more patches than the largest square."""
    tower = resolve({"tower": naflex | {"reduce": step}, "images": {"max_tokens": 24}}).tower
    assert tower.shape.native is not None
    counts = {
        of_picture(tower, height, width).geometry.num_tokens
        for height in range(16, 400, 16)
        for width in range(16, 400, 16)
    }
    assert max(counts) == tower.most_tokens == most
