"""The contracts of encoders of native resolution, which keep the aspect of each picture. Others are spared them."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from vita_core.planning.native import at_size
from vita_core.plugins.native import NativeSize
from vita_core.testing.batches import AGREE, apart
from vita_core.testing.kit import holds
from vita_core.testing.outcomes import SkippedCheckError, expect
from vita_core.testing.subject import Subject
from vita_core.towers.tower import BaseVisionTower

BLOCKS = ((2, 3), (4, 1), (1, 2))
"""The (rows, cols) of blocks of the pictures that the checks encode."""


def _native(subject: Subject) -> NativeSize:
    native = subject.resolved().shape.native
    if native is None:
        raise SkippedCheckError("the encoder takes pictures of one size")
    return native


def _pictures(subject: Subject) -> list[Tensor]:
    """Return random pictures (3, H, W) of unequal sizes, the same in every call."""
    side, generator = _native(subject).block, torch.Generator().manual_seed(0)
    return [torch.randn(3, rows * side, cols * side, generator=generator) for rows, cols in BLOCKS]


@holds(
    "Let encode_pictures() keep the pictures apart, with a mask over padding, and return for each its own tokens row by row "
    "and its grid."
)
def pictures_keep_their_aspect(subject: Subject) -> None:
    """A list of pictures of unequal sizes gives each its own N and grid, with the same features as one by one."""
    subject.one_encoder()
    pictures, tower = _pictures(subject), subject.tower
    together = tower(pictures)
    for picture, tokens in zip(pictures, together, strict=True):
        size = (picture.shape[1], picture.shape[2])
        wanted = (1, at_size(tower.resolved, size).geometry.num_tokens, tower.hidden_size)
        shape, where = tuple(tokens.shape), f"a picture of {size[1]} x {size[0]} pixels"
        expect(shape == wanted, f"{where} gave {shape}, the plan says {wanted}")
        off = apart(tower([picture])[0].detach(), tokens.detach())
        expect(off <= AGREE, f"{where} alone differs by {off:.2g} of the largest value (at most {AGREE:g})")


def _calls(tower: BaseVisionTower, batch: list[Tensor]) -> int:
    """Return how often `tower` calls modules that have parameters of their own."""
    calls: list[int] = []
    owners = [part for part in tower.modules() if next(part.parameters(recurse=False), None) is not None]
    hooks = [part.register_forward_pre_hook(lambda *_: calls.append(1)) for part in owners]
    tower(batch)
    for hook in hooks:
        hook.remove()
    return len(calls)


@holds("Let encode_pictures() run the encoder once: join the pictures to one sequence, or pad them to one batch.")
def pictures_run_in_one_call(subject: Subject) -> None:
    """Each layer of the encoder is called as often for several pictures of unequal sizes as for one."""
    subject.one_encoder()
    pictures, tower = _pictures(subject), subject.tower
    counts = [_calls(tower, batch) for batch in (pictures[:1], pictures)]
    told = f"layers were called {counts[1]} times for {len(pictures)} pictures, and {counts[0]} times for one"
    expect(counts[0] == counts[1], told)


@holds(
    "Return from the spec's shape function the shape for pictures of `size`, and in Shape.native the rule and the budget of "
    "the checkpoint's own image processor."
)
def sizes_are_as_planned(subject: Subject) -> None:
    """The processor resizes a picture to whole blocks within the budget, and the output has the planned tokens."""
    subject.one_encoder()
    native, tower = _native(subject), subject.tower
    for width, height in ((640, 480), (90, 300), (64, 64)):
        (pixels,) = tower.image_processor.preprocess(Image.new("RGB", (width, height)))["pixel_values"]
        size, planned = (pixels.shape[1], pixels.shape[2]), native.size(height, width)
        where = f"a picture of {width} x {height} pixels"
        expect(size == planned, f"{where} became {size[1]} x {size[0]}, the plan says {planned[1]} x {planned[0]}")
        rows, cols = native.grid(*size)
        expect(rows * cols <= native.max_tokens, f"{where} has {rows} x {cols} patches, over {int(native.max_tokens)}")
        tokens = at_size(tower.resolved, size).geometry.num_tokens
        found = tower([pixels])[0].shape[1]
        expect(found == tokens, f"{where} gave {found} tokens, the plan says {tokens}")
