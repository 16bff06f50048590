"""Several towers as one: each encodes the pictures, and their tokens are joined."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vita_core.errors import VitaError
from vita_core.loading import LoadReport
from vita_core.pixels.fused import FusedPixels, FusedProcessor
from vita_core.planning.fused import ResolvedFused, in_part
from vita_core.planning.geometry import Grid
from vita_core.towers import features
from vita_core.towers.batches import Placed
from vita_core.towers.devices import pick_device
from vita_core.towers.tower import BaseVisionTower, unloaded

__all__ = ["FusedTower"]

PREPARE = 'Try: pixels = tower.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]'


class FusedTower(BaseVisionTower):
    """A tower of several towers, the `parts`. Its `image_processor` gives each part its own pixels, in a `FusedPixels`.

    Each part has its own layer, reductions, freezing, dtype and device. The output is on the device of the first part.
    `forward` takes a `FusedPixels`, or a list of its pictures. A tensor (B, 3, H, W) is for all parts, and accepted only if
    they share size, mean and deviation. For encoders of native resolution, a `FusedPixels` whose pictures have different
    sizes gives a list of features.
    """

    resolved: ResolvedFused

    def __init__(self, resolved: ResolvedFused, device: torch.device | str = "cpu") -> None:
        super().__init__(resolved, device)
        made = []
        for place, part in enumerate(resolved.parts):
            with in_part(place):
                own = part.settings.device
                made.append(unloaded(part, device if own is None else pick_device(own)))
        # a tuple, because they are modules of this one only once they are loaded, in `encoder`
        self.parts = tuple(made)

    def build_encoder(self) -> nn.Module:
        """Return the list of the parts."""
        return nn.ModuleList(self.parts)

    def load_model(self) -> None:
        """Load each part strictly; each also has its own `load_report`. A second call does nothing. Raises CheckpointError."""
        if self.is_loaded:
            return
        report = LoadReport()
        for place, part in enumerate(self.parts):
            with in_part(place):
                part.load_model()
            own = part.load_report or LoadReport()
            report.loaded += own.loaded
            for reason, keys in own.skipped.items():
                report.skipped.setdefault(reason, []).extend(f"towers.{place}: {key}" for key in keys)
        self.encoder, self.load_report = self.build_encoder(), report
        self.load_reductions()
        self.train(self.training)

    @property
    def image_processor(self) -> Any:
        """The image processor of all parts: ``preprocess(pictures)["pixel_values"]`` is a `FusedPixels`."""
        if self._processor is None:
            self._processor = FusedProcessor([part.image_processor for part in self.parts])
        return self._processor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first part's encoder."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the first part's encoder, where the output is."""
        return self.parts[0].device

    def feature_select(self, hidden_states: Any) -> Tensor:
        """Raise VitaError: hidden states are those of one part."""
        raise VitaError(
            "feature_select: hidden states are those of one part. Try: tower.parts[0].feature_select(states)"
        )

    def placed(self, images: Any) -> Placed | list[Placed]:
        """Return the joined tokens of all pictures with their grid, or those of each picture of a list."""
        if not self.is_loaded:
            return super().placed(images)  # which raises the error
        if isinstance(images, Tensor | FusedPixels):
            return self._of_batch(self._for_parts(images))
        pictures: Any = [self._for_parts(image) for image in images]
        if not pictures:
            return []
        found = self._of_batch(torch.stack(pictures))  # type: ignore[arg-type]  # FusedPixels, by __torch_function__
        return found if isinstance(found, list) else _one_by_one(found)

    def _for_parts(self, images: Tensor | FusedPixels) -> FusedPixels:
        """Return pixels for each part. Raises VitaError for a tensor if they need different ones."""
        if isinstance(images, FusedPixels):
            if len(images.parts) != len(self.parts):
                raise VitaError(
                    f"pixels are for {len(images.parts)} parts, but the tower has {len(self.parts)}. "
                    "Try: prepare the pictures with the tower's image_processor"
                )
            return images
        if not isinstance(images, Tensor):
            raise VitaError(f"pixels are a tensor or FusedPixels, not {type(images).__name__}. {PREPARE}")
        needs = [_needed(part) for part in self.parts]
        other = next((place for place, need in enumerate(needs) if need != needs[0]), 0)
        if other:
            told = " and ".join(f"part {place} takes {_told(needs[place])}" for place in (0, other))
            raise VitaError(f"one tensor of pixels does not suit all parts: {told}. {PREPARE}")
        return FusedPixels([images] * len(self.parts))

    def _of_batch(self, pixels: FusedPixels) -> Placed | list[Placed]:
        if len(pixels) == 0:  # get the shape from one blank picture: some encoders and reductions fail on empty batches
            found = self._of_batch(FusedPixels(map(_blank, self.parts, pixels.parts)))
            return [] if isinstance(found, list) else (found[0][:0], found[1])
        outputs = [part.placed(given) for part, given in zip(self.parts, pixels.parts, strict=True)]
        if not any(isinstance(output, list) for output in outputs):
            return self._whole(outputs, pixels)
        each = [output if isinstance(output, list) else _one_by_one(output) for output in outputs]
        found = [self._whole([*picture], pixels) for picture in zip(*each, strict=True)]
        if self.shape.native is not None or len({tokens.shape for tokens, _ in found}) > 1:
            return found
        return torch.cat([tokens for tokens, _ in found]), found[0][1]

    def _whole(self, outputs: list[Any], pixels: FusedPixels) -> Placed:
        """Return the joined outputs of the parts, `Placed` each, after the reductions of the whole. Empties `outputs`."""
        grids = [grid for _, grid in outputs]
        tokens, grid = self._joined([outputs.pop(0)[0].to(self.device) for _ in grids], grids)
        return self._reduced(tokens, grid, pixels.first)

    def _joined(self, tokens: list[Tensor], grids: list[Grid | None]) -> Placed:
        """Return the tokens (B, N, C) of the parts, each with its grid, joined as ``combine`` says."""
        combine, asked = self.settings.combine, self.settings.grid
        if combine == "sequence":
            return torch.cat(tokens, dim=1), None
        grid = None
        if combine != "interleave" and grids[0] is not None:
            grid = grids[0] if asked == "first" else tuple(asked)
            for place, own in enumerate(grids):
                if own not in (None, grid):  # one by one, so that memory is free again of what was resized
                    tokens[place] = features.resized(tokens[place], own, grid)
        counts = [each.shape[1] for each in tokens]
        if len({*counts}) > 1:
            raise VitaError(
                f"tower.combine: {combine!r} joins tokens one by one, but the parts give {counts} tokens for these pixels. "
                "Try: pictures of the sizes that the tower's image_processor gives"
            )
        if combine == "channel":
            return torch.cat(tokens, dim=-1), grid
        if combine == "sum":
            return sum(tokens[1:], tokens[0]), grid
        return torch.stack(tokens, dim=2).flatten(1, 2), None


def _one_by_one(output: Placed) -> list[Placed]:
    tokens, grid = output
    return [(one, grid) for one in tokens.split(1)]


def _blank(part: BaseVisionTower, pixels: Tensor | list[Tensor]) -> Tensor:
    """Return pixels of one picture like those of an empty batch."""
    if isinstance(pixels, Tensor):
        return pixels.new_zeros(1, *pixels.shape[1:])
    return torch.zeros(1, 3, *part.resolved.geometry.input_size)


VALUES = ("image_mean", "image_std", "do_normalize", "rescale_factor")


def _needed(part: BaseVisionTower) -> tuple[Any, ...]:
    """Return what decides which pixels a part takes: the size, and how a processor makes values of colours."""
    values = (getattr(part.image_processor, key, None) for key in VALUES)
    return (
        part.resolved.geometry.input_size,
        part.shape.native,
        *(tuple(v) if isinstance(v, list) else v for v in values),
    )


def _told(needed: tuple[Any, ...]) -> str:
    (height, width), native, mean, deviation, *_ = needed
    size = f"{width} x {height} pixels" if native is None else "pictures of their own aspect"
    return f"{size} with mean {mean} and deviation {deviation}"
