"""What must hold of any tokens: round trips, counts as planned, and independence of order, batch and padding."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import FEW
from PIL import Image
from torch import Tensor

from vita_core import build_tower, make_plan
from vita_core.errors import VitaError
from vita_core.language.llm import PICTURE_ID
from vita_core.language.merging import IGNORED_LABEL, merge, merge_labelled
from vita_core.pixels.anyres import cut_anyres
from vita_core.pixels.images import cut_tiles, pad_to_square
from vita_core.planning.tiling import best_grid, count_tiles, tile_grid
from vita_core.towers.features import pixel_shuffle, resized, s2_features, to_map, to_tokens

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
WIDTH = 6
sides = st.integers(2, 200)
reliability = pytest.mark.reliability


def picture(width: int, height: int) -> Image.Image:
    """A picture whose every pixel tells its place."""
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return Image.fromarray(torch.stack([rows % 256, cols % 256, (rows + cols) % 256], -1).to(torch.uint8).numpy())


def pixels_of(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)


def random(*shape: int, start: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(start))


# tiles ---------------------------------------------------------------------------------------------------------------


@reliability(
    door="tiles", fault="any picture and any bounds", expected="as many as planned; put together they are the picture"
)
@FEW
@given(sides, sides, st.integers(1, 4), st.integers(0, 8), st.booleans())
def test_tiles_are_the_resized_picture(width: int, height: int, least: int, more: int, thumbnail: bool) -> None:
    bounds = {"tile": 14, "min_tiles": least, "max_tiles": least + more}
    whole = picture(width, height)
    tiles = cut_tiles(whole, thumbnail=thumbnail, **bounds)
    cols, rows = tile_grid(width, height, **bounds)
    assert len(tiles) == count_tiles(width, height, thumbnail=thumbnail, **bounds)
    grid = [torch.cat([pixels_of(tile) for tile in tiles[row * cols : (row + 1) * cols]], 1) for row in range(rows)]
    assert torch.equal(torch.cat(grid), pixels_of(whole.resize((cols * 14, rows * 14), Image.Resampling.BICUBIC)))


@FEW
@given(sides, sides, st.integers(2, 9))
def test_the_grid_of_tiles_knows_no_scale_but_for_ties(width: int, height: int, most: int) -> None:
    """Pictures of one aspect get a grid that is as close to it, and the turned picture the turned grid's closeness."""
    small, large = (tile_grid(width * n, height * n, tile=14, max_tiles=most) for n in (1, 8))
    turned = tile_grid(height, width, tile=14, max_tiles=most)
    distance = [abs(width / height - cols / rows) for cols, rows in (small, large)]
    assert distance[0] == pytest.approx(distance[1], abs=1e-9)
    assert turned[0] * turned[1] <= most


@FEW
@given(sides, sides, st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
def test_anyres_gives_the_whole_and_its_tiles(width: int, height: int, grids: list[tuple[int, int]]) -> None:
    parts = cut_anyres(picture(width, height), grids, 14)
    rows, cols = best_grid((width, height), grids, 14)
    assert len(parts) == 1 + rows * cols
    assert {part.size for part in parts} == {(14, 14)}


@FEW
@given(sides, sides)
def test_a_padded_picture_holds_the_picture(width: int, height: int) -> None:
    whole = picture(width, height)
    padded = pad_to_square(whole, (1, 2, 3))
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    assert padded.size == (side, side)
    assert torch.equal(pixels_of(padded.crop((left, top, left + width, top + height))), pixels_of(whole))


# maps ----------------------------------------------------------------------------------------------------------------


@reliability(door="pixel shuffle", fault="any grid and step", expected="no value is lost, and the way back is exact")
@FEW
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_a_pixel_shuffle_can_be_undone(rows: int, cols: int, step: int, batch: int) -> None:
    tokens = random(batch, rows * step * cols * step, WIDTH)
    shuffled = pixel_shuffle(tokens, 1 / step, grid=(rows * step, cols * step))
    assert shuffled.shape == (batch, rows * cols, WIDTH * step * step)
    back = shuffled.reshape(batch, rows, cols, step, step, WIDTH).transpose(2, 3).reshape(tokens.shape)
    assert torch.equal(back, tokens)


@FEW
@given(st.integers(1, 5), st.integers(1, 5))
def test_a_map_is_its_tokens(rows: int, cols: int) -> None:
    tokens = random(2, rows * cols, WIDTH)
    assert torch.equal(to_tokens(to_map(tokens, (rows, cols))), tokens)
    torch.testing.assert_close(resized(tokens, (rows, cols), (rows, cols)), tokens)
    constant = torch.ones(1, rows * cols, WIDTH)
    torch.testing.assert_close(resized(constant, (rows, cols), (3, 7)), torch.ones(1, 21, WIDTH))


def averages(crops: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """An encoder: the averages of patches of 4 pixels, (M, 3, 8, 8) -> (M, 4, 3)."""
    return torch.nn.functional.avg_pool2d(crops, 4).flatten(2).transpose(1, 2), (2, 2)


@reliability(
    door="S2", fault="any batch and scales", expected="as many tokens as the first scale, in any order of the batch"
)
@FEW
@given(st.permutations([0, 1, 2]), st.lists(st.sampled_from([16, 24]), max_size=2, unique=True))
def test_s2_knows_no_order_of_the_batch(order: list[int], more: list[int]) -> None:
    scales, pixels = [8, *sorted(more)], random(3, 3, 8, 8)
    tokens, grid = s2_features(pixels, scales, averages)
    assert tokens.shape == (3, 4, 3 * len(scales))
    assert grid == (2, 2)
    assert torch.equal(s2_features(pixels[order], scales, averages)[0], tokens[order])
    assert torch.equal(tokens[..., :3], averages(pixels)[0]), "the first scale is the picture as it is"


# reductions and fusions ----------------------------------------------------------------------------------------------

GRID = st.integers(1, 4)
STEPS = st.one_of(
    st.builds(lambda factor, order: {"type": "pixel_shuffle", "scale_factor": factor, "order": order},
              st.sampled_from([1.0, 0.5, 0.25]), st.sampled_from(["v1", "v2"])),
    st.builds(lambda rows, cols, kind: {"type": "pool", "grid": [rows, cols], "kind": kind}, GRID, GRID,
              st.sampled_from(["average", "max"])),
    st.builds(lambda window: {"type": "pool", "window": window}, st.sampled_from([1, 2, [1, 2], 4])),
    st.builds(lambda rows, cols: {"type": "interpolate", "grid": [rows, cols]}, GRID, GRID),
    st.builds(lambda keep, rest: {"type": "prune", "keep": keep, "rest": rest}, st.integers(1, 15),
              st.sampled_from(["merge", "drop"])),
    st.builds(lambda ratio: {"type": "token_merging", "ratio": ratio}, st.sampled_from([0.3, 0.5, 0.9])),
)  # fmt: skip


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return random(3, 3, 56, 56)


@reliability(
    door="reductions",
    fault="any chain of them",
    expected="the planned tokens in any order of the batch, or a refused plan",
)
@FEW
@given(steps=st.lists(STEPS, min_size=1, max_size=3), order=st.permutations([0, 1, 2]))
def test_a_chain_of_reductions_gives_the_planned_tokens(
    steps: list[dict[str, Any]], order: list[int], pixels: Tensor
) -> None:
    config = {"weights": str(GOLDEN / "clip"), "reduce": steps}
    planned = None
    with suppress(VitaError):
        planned = make_plan({"tower": config})
    if planned is None:
        with pytest.raises(VitaError, match=r"tower\.reduce"):
            build_tower(config)
        return
    tower = build_tower(config)
    with torch.inference_mode():
        tokens = tower(pixels)
        assert tokens.shape[1:] == (planned.tokens, tower.hidden_size)
        torch.testing.assert_close(tower(pixels[order]), tokens[order])
        torch.testing.assert_close(tower(pixels[:1]), tokens[:1])


@pytest.fixture(scope="module")
def apart() -> dict[str, Any]:
    return {name: build_tower({"weights": str(GOLDEN / name)}) for name in ("clip", "siglip")}


@reliability(
    door="several towers", fault="any order and combination", expected="the planned tokens, joined in that order"
)
@pytest.mark.parametrize("combine", ["channel", "sum", "sequence", "interleave"])
@pytest.mark.parametrize("order", [*itertools.product(["clip", "siglip"], repeat=2)])
def test_the_parts_of_a_tower_stand_in_their_order(
    combine: str, order: tuple[str, ...], apart: dict[str, Any], pixels: Tensor
) -> None:
    config = {"towers": [{"weights": str(GOLDEN / name)} for name in order], "combine": combine}
    tower = build_tower(config)
    given = tower.image_processor.preprocess(picture(80, 60), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tokens = tower(given)
        parts = [apart[name](one) for name, one in zip(order, given.parts, strict=True)]
    joined = {
        "channel": torch.cat(parts, -1),
        "sum": sum(parts),
        "sequence": torch.cat(parts, 1),
        "interleave": torch.stack(parts, 2).flatten(1, 2),
    }
    assert torch.equal(tokens, joined[combine])
    assert tokens.shape[1] == make_plan({"tower": config}).tokens


# prompts -------------------------------------------------------------------------------------------------------------

WORDS = 50
TABLE = random(WORDS, WIDTH, start=1)


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[list[int], list[Tensor]]]:
    """Prompts of words and pictures, each with the tokens of its pictures."""
    found = []
    for start in range(draw(st.integers(1, 4))):
        prompt = draw(st.lists(st.integers(0, WORDS - 1) | st.just(PICTURE_ID), min_size=1, max_size=8))
        counts = draw(st.lists(st.integers(0, 5), min_size=prompt.count(PICTURE_ID), max_size=prompt.count(PICTURE_ID)))
        found.append((prompt, [random(count, WIDTH, start=10 * start + place) for place, count in enumerate(counts)]))
    return found


def embed(ids: Tensor) -> Tensor:
    return TABLE[ids]


@reliability(
    door="prompts with pictures", fault="any batch", expected="each row as alone, whatever the padding and the order"
)
@FEW
@given(rows(), st.sampled_from(["left", "right"]), st.randoms(use_true_random=False))
def test_a_row_of_a_batch_is_the_row_alone(
    batch: list[tuple[list[int], list[Tensor]]], padding: str, chance: Any
) -> None:
    embeds, mask = merge([ids for ids, _ in batch], [tokens for _, tokens in batch], embed, padding=padding)
    for place, (ids, tokens) in enumerate(batch):
        alone, whole = merge([ids], [tokens], embed)
        length = len(ids) - len(tokens) + sum(map(len, tokens))
        assert mask[place].sum() == length == alone.shape[1]
        assert whole.all()
        assert torch.equal(embeds[place][mask[place].bool()], alone[0])
        assert not embeds[place][~mask[place].bool()].any(), "padding is zero"
        assert mask[place].flip(0)[:1].all() or padding == "right" or not length
    order = [*range(len(batch))]
    chance.shuffle(order)
    again, _ = merge([batch[n][0] for n in order], [batch[n][1] for n in order], embed, padding=padding)
    assert torch.equal(again, embeds[order])


@FEW
@given(rows(), st.sampled_from(["left", "right"]), st.none() | st.integers(1, 12))
def test_labels_stand_with_their_words(
    batch: list[tuple[list[int], list[Tensor]]], padding: str, most: int | None
) -> None:
    ids = [torch.tensor(prompt) for prompt, _ in batch]
    labels = [row.masked_fill(row == PICTURE_ID, 7) for row in ids]
    made = merge_labelled(ids, labels, [tokens for _, tokens in batch], embed, padding=padding, max_length=most)
    for place in range(len(batch)):
        kept = made.mask[place].bool()
        words = made.labels[place] != IGNORED_LABEL
        assert not words[~kept].any()
        assert torch.equal(made.embeds[place][words], TABLE[made.labels[place][words]]), "a label is that of its word"
        assert torch.equal(made.positions[place][kept], torch.arange(int(kept.sum())))
        assert most is None or kept.sum() <= most
