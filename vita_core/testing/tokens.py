"""The contracts of token arithmetic: the output is what `vita plan` predicts without weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vita_core.planning.geometry import Grid
from vita_core.planning.stages import tower_stages
from vita_core.planning.towers import ResolvedTower
from vita_core.testing.kit import holds
from vita_core.testing.outcomes import SkippedCheckError, expect
from vita_core.testing.subject import Subject

UNREDUCED: dict[str, Any] = {
    "s2": None,
    "pixel_shuffle": False,
    "pool": None,
    "reduce": None,
    "select_feature": "patch",
}
SHAPE_REMEDY = (
    "Let the spec's shape function and the encoder read the same keys of the checkpoint's config: image size, patch size, "
    "widths, depth and prefix tokens."
)


def _as_planned(subject: Subject, **changes: Any) -> Tensor:
    """Return the features of a changed config, after checking that they are as the plan says."""
    tower = subject.build(**changes)
    resolved = tower.resolved
    _, tokens, channels = tower_stages(resolved, 1)[-1].shape
    output: Tensor = tower(subject.pixels(**changes))
    found, said = tuple(output.shape[1:]), ", ".join(f"{key}: {value}" for key, value in changes.items())
    where = f"with {said}, " if said else ""
    expect(
        found == (tokens, channels), f"{where}the plan says {tokens} tokens of width {channels}, the output is {found}"
    )
    stated = (tower.num_tokens, tower.hidden_size)
    expect(stated == found, f"{where}num_tokens and hidden_size are {stated}, the output is {found}")
    if resolved.settings.select_feature == "patch" and tower.grid is not None:
        places = math.prod(tower.grid)
        expect(places == tokens, f"{where}the grid is {_sides(tower.grid)}, the output has {tokens} tokens")
    return output.detach()


def _of_one_size(resolved: ResolvedTower, step: str) -> None:
    if resolved.shape.native is not None:
        raise SkippedCheckError(f"the encoder keeps the aspect of each picture, which {step} does not support")


def _sides(grid: Sequence[int]) -> str:
    return " x ".join(map(str, grid))


def _square(resolved: ResolvedTower) -> int:
    height, width = resolved.shape.image_size
    if height != width:
        raise SkippedCheckError(f"the tower's pictures are not square ({height} x {width})")
    return height


@holds(SHAPE_REMEDY)
def tokens_are_as_planned(subject: Subject) -> None:
    """The output is (B, num_tokens, hidden_size) as `vita plan` says, and the grid has as many places as tokens."""
    _as_planned(subject)


@holds("Let the spec's shape function count the parameters of each step of the encoder in the `Stage` of that step.")
def parameters_are_as_planned(subject: Subject) -> None:
    """The encoder has as many parameters as `vita plan` says, not counting a final norm that is not used."""
    subject.one_encoder()
    planned, norm = tower_stages(subject.resolved(), 1)[0].parameters, subject.resolved().shape.norm_parameters or 0
    built = sum(parameter.numel() for parameter in subject.encoder.parameters())
    expect(built in (planned, planned - norm), f"the plan says {planned:,} parameters, the encoder has {built:,}")


@holds(
    "Count CLS and register tokens in Shape.prefix_tokens, those behind the patches in Shape.suffix_tokens, and let "
    "feature_select drop them."
)
def prefix_tokens_are_dropped(subject: Subject) -> None:
    """encode gives prefix_tokens + rows * cols + suffix_tokens tokens; `patch` keeps the patches, `cls` one token."""
    subject.one_encoder()
    tower = subject.build(**UNREDUCED)
    planned, prefix, suffix = tower.resolved.geometry.patch_grid, tower.shape.prefix_tokens, tower.shape.suffix_tokens
    places = math.prod(planned)
    pixels, layers = subject.pixels(**UNREDUCED), tower.resolved.geometry.layers
    native = tower.shape.native is not None
    states, grid = tower.encode_pictures(list(pixels), layers)[0] if native else tower.encode(pixels, layers)
    for layer, state in states.items():
        told = (
            f"layer {layer} has {state.shape[1]} tokens for a grid of {_sides(grid)}, {prefix} prefix tokens and "
            f"{suffix} suffix tokens"
        )
        expect(state.shape[1] == prefix + math.prod(grid) + suffix, told)
    expect(tuple(grid) == planned, f"encode returned the grid {tuple(grid)}, the plan says {planned}")
    patches = tower(subject.pixels(**UNREDUCED)).detach()
    expect(
        patches.shape[1] == places,
        f"`select_feature: patch` gave {patches.shape[1]} tokens for {_sides(planned)} patches",
    )
    if prefix or suffix:
        both = _as_planned(subject, **{**UNREDUCED, "select_feature": "cls_patch"})
        first = _as_planned(subject, **{**UNREDUCED, "select_feature": "cls"})
        expect(torch.equal(both[:, 1:], patches), "`cls_patch` without its first token differs from `patch`")
        expect(torch.equal(both[:, :1], first), "the first token of `cls_patch` differs from `cls`")


@holds("Flatten maps (B, C, rows, cols) with .flatten(2).transpose(1, 2), and swap no axes of the pixels.")
def tokens_stand_row_by_row(subject: Subject) -> None:
    """Token r * cols + c (of a step) is the patch in row r, column c: in the first layer it depends most on the pixels there."""
    subject.one_encoder()
    changes = {**UNREDUCED, "select_layer": subject.resolved().shape.first_layer}
    *steps, rows, cols = subject.resolved(**changes).geometry.patch_grid
    if min(rows, cols) < 2:
        raise SkippedCheckError(f"the grid is only {rows} x {cols}")
    pixels = subject.pixels(1, **changes).requires_grad_()
    tokens = subject.build(**changes)(pixels)
    if not tokens.requires_grad:
        raise SkippedCheckError("no gradient reaches the pixels; fix the check `gradient_reaches_the_input` first")
    last = (math.prod(steps) - 1) * rows * cols
    for token, place in ((cols - 1, "upper right"), (last + (rows - 1) * cols, "lower left")):
        (gradient,) = torch.autograd.grad(tokens[0, token].square().sum(), pixels, retain_graph=True)
        weight = gradient[0].abs().sum(-3)  # (H, W), or of a video (frames, H, W)
        found = _quadrant(weight if not steps else weight.sum(0))
        told = f"token {token} of a grid of {_sides([*steps, rows, cols])} depends on the"
        expect(found == place, f"{told} {found} of the picture, not on the {place}")
        if last:
            first, second = (float(half.sum()) for half in weight.tensor_split(2))
            expect((first > second) == (token < last), f"{told} wrong half of the video")


def _quadrant(weight: Tensor) -> str:
    """Return the quadrant of a map (H, W) that contains its centre of mass."""
    height, width = weight.shape
    y = (weight.sum(1) * torch.arange(height)).sum() / weight.sum()
    x = (weight.sum(0) * torch.arange(width)).sum() / weight.sum()
    return f"{'upper' if y < (height - 1) / 2 else 'lower'} {'left' if x < (width - 1) / 2 else 'right'}"


@holds("Let encode() return the grid of the pixels that it gets, which is all that S2 needs.")
def s2_is_as_planned(subject: Subject) -> None:
    """S2 with two scales keeps the number of tokens and doubles their width."""
    subject.one_encoder()
    if subject.resolved().shape.frames is not None:
        raise SkippedCheckError("S2 is for pictures, and the tower takes videos")
    _of_one_size(subject.resolved(), "S2")
    side = _square(subject.resolved())
    _as_planned(subject, **{**UNREDUCED, "s2": {"scales": [side, 2 * side]}})


def _patch_grid(subject: Subject) -> Grid:
    grid = subject.resolved(**UNREDUCED).geometry.patch_grid
    if len(grid) < 2:
        raise SkippedCheckError("the joined tokens have no grid")
    return grid


@holds("Let encode() return the grid of the pixels that it gets, and the tokens row by row.")
def pixel_shuffle_is_as_planned(subject: Subject) -> None:
    """Pixel shuffle by 0.5 gives a quarter of the tokens, each four times as wide."""
    *_, rows, cols = _patch_grid(subject)
    if subject.resolved().shape.native is None and (rows % 2 or cols % 2):
        raise SkippedCheckError(f"the grid of {rows} x {cols} cannot be halved")
    _as_planned(subject, **{**UNREDUCED, "pixel_shuffle": 0.5})


@holds("Let encode() return the grid of the pixels that it gets, and the tokens row by row.")
def pool_is_as_planned(subject: Subject) -> None:
    """Pooling to one column gives the mean of the patches of each row."""
    _of_one_size(subject.resolved(), "pooling")
    *_, rows, cols = _patch_grid(subject)
    pooled = _as_planned(subject, **{**UNREDUCED, "pool": [rows, 1]})
    patches = _as_planned(subject, **UNREDUCED).unflatten(1, (-1, cols))
    expect(torch.allclose(pooled, patches.mean(2), atol=1e-4), "the pooled tokens are not the means of the rows")


@holds(
    "Return each layer under its own key, counted as in Hugging Face's hidden_states (0 = embeddings, k = block k before the "
    "final norm)."
)
def layers_are_as_planned(subject: Subject) -> None:
    """Each layer gives the planned tokens (also with `norm: true`), a list of layers their features concatenated on channels."""
    subject.one_encoder()
    shape = subject.resolved().shape
    layers = range(shape.first_layer, shape.layers + 1)
    chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    features = {layer: _as_planned(subject, **UNREDUCED, select_layer=layer) for layer in chosen}
    grid = shape.stages[chosen[-1]].grid
    alike = [layer for layer in chosen if shape.stages[layer].grid == grid]
    for layer, other in itertools.combinations(alike, 2):
        same = features[layer].shape == features[other].shape and torch.equal(features[layer], features[other])
        expect(not same, f"layers {layer} and {other} have the same features")
    both = _as_planned(subject, **UNREDUCED, select_layer=alike)
    apart = torch.cat([features[layer] for layer in alike], dim=-1)
    expect(
        torch.allclose(both, apart, atol=1e-4),
        f"select_layer: {alike} does not give the features of these layers concatenated",
    )
    if shape.norm_parameters is not None:
        _as_planned(subject, **UNREDUCED, select_layer=alike[0], norm=True)
