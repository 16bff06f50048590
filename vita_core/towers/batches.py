"""Run an encoder on batches: pixels in, tokens out. It holds the half of `BaseVisionTower` that needs a loaded encoder."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from vita_core.errors import VitaError
from vita_core.planning.geometry import Grid
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.native import NativeSize
from vita_core.towers import features
from vita_core.towers.devices import compile_errors, compiled, pictures_at_once
from vita_core.towers.memory import in_memory
from vita_core.towers.opened import OpenedBlocks
from vita_core.towers.whole import WholeEncoder

__all__ = ["BatchRunner", "Placed"]

Placed = tuple[Tensor, Grid | None]
"""Tokens (B, N, C), and their grid if they have one."""


class BatchRunner(WholeEncoder, OpenedBlocks, abc.ABC):
    """Runs the steps of a tower: encode, select layers, merge scales (S2), reduce. `BaseVisionTower` documents it."""

    input_sizes: Literal["any", "patches", "fixed"] = "any"

    def __init__(self, resolved: ResolvedTower, device: torch.device | str) -> None:
        super().__init__(resolved, device)
        self._compiled_whole = False

    # what a subclass defines -----------------------------------------------------------------------------------------

    def encode_pictures(
        self, pictures: Sequence[Tensor], layers: Sequence[int]
    ) -> list[tuple[Mapping[int, Tensor], Grid]]:
        """Run the encoder once on pictures (3, H, W) of any sizes. Return for each what `encode` returns, with B = 1.

        Towers with `Shape.native` define it instead of `encode`. The sides of the pictures are multiples of its `block`.
        """
        raise VitaError(
            f"{type(self).__name__} defines no encode_pictures(pictures, layers), but its encoder has Shape.native. "
            "Try: define it in the plugin"
        )

    # the contract ----------------------------------------------------------------------------------------------------

    @overload
    def forward(self, images: Tensor) -> Tensor: ...
    @overload
    def forward(self, images: Sequence[Tensor]) -> list[Tensor]: ...
    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Return features (B, N, C) of pixels (B, 3, H, W), or a list of (1, N, C) for a list of (3, H, W).

        A tower of videos takes pixels (B, frames, 3, H, W), or a list of (frames, 3, H, W). The features have the dtype of
        the pixels. Raises VitaError if the tower is not loaded or a shape is wrong.
        """
        placed = self.placed(images)
        return placed[0] if isinstance(placed, tuple) else [tokens for tokens, _ in placed]

    def placed(self, images: Any) -> Placed | list[Placed]:
        """Return what `forward` returns for the same pixels, each tensor with the grid of its tokens.

        The grid is None if the tokens have none, or if CLS is one of them.
        """
        if self.encoder is None:
            raise VitaError(
                f"tower {self.resolved.spec.name!r} is not loaded, because delay_load is set. Try: call tower.load_model()"
            )
        native = self.shape.native
        if native is not None and isinstance(images, Tensor):
            _check_pixels(images, (*images.shape[:1], 3))
            found = self._native(list(images) or [images.new_zeros(images.shape[1:])], native)
            return torch.cat([tokens for tokens, _ in found])[: len(images)], found[0][1]
        if native is not None:
            return self._native(images, native)
        if isinstance(images, Tensor):
            return self._batch(images)
        output: dict[int, Placed] = {}
        for size in dict.fromkeys(image.shape for image in images):  # pictures of one size share a batch
            where = [index for index, image in enumerate(images) if image.shape == size]
            batch, grid = self._batch(torch.stack([images[index] for index in where]))
            output |= {index: (tokens, grid) for index, tokens in zip(where, batch.split(1), strict=True)}
        return [output[index] for index in range(len(images))]

    def _native(self, images: Sequence[Tensor], native: NativeSize) -> list[Placed]:
        """Run an encoder of native resolution, in one call for all pictures unless ``max_batch`` is set."""
        for image in images:
            _check_pixels(image, (3,))
            native.grid(image.shape[-2], image.shape[-1])  # raises an error for parts of blocks
        encode = compiled(type(self).encode_pictures) if self._compiled_whole else type(self).encode_pictures
        layers, step = sorted(set(self.resolved.geometry.layers)), self.settings.max_batch or max(1, len(images))
        output, name = [], self.resolved.spec.name

        def run(part: Sequence[Tensor]) -> Any:
            with compile_errors(name, self.settings.compile):
                return encode(self, [image.to(device=self.device, dtype=self.dtype) for image in part], layers)

        for part, found in in_memory(run, images, step, name):
            for image, (states, grid) in zip(part, found, strict=True):
                output.append(self._reduced(self._scaled(states), grid, image))
        return output

    def _batch(self, images: Tensor) -> Placed:
        _check_pixels(images, (*images.shape[:1], *self.shape.pixels[:-2]))
        if len(images) == 0:  # get the shape from one blank picture: some encoders fail on empty batches
            tokens, grid = self._batch(images.new_zeros(1, *images.shape[1:]))
            return tokens[:0], grid
        pixels = images.to(device=self.device, dtype=self.dtype)
        if self.settings.s2 is not None:
            tokens, grid = features.s2_features(pixels, self.settings.s2.scales, self._selected)
        else:
            tokens, grid = self._selected(pixels)
        return self._reduced(tokens, grid, images)

    def _reduced(self, tokens: Tensor, grid: Grid | None, images: Tensor) -> Placed:
        """Return tokens (B, N, C) after the reductions, in the dtype of the `images` that they came from, and their grid."""
        tokens, grid = self.reduced(tokens, grid, last=self.ends_before)
        output = tokens.to(images.dtype)
        if self.settings.check_finite and not output.isfinite().all():
            raise VitaError(self._not_finite(images, output))
        return output, grid if grid is not None and math.prod(grid) == output.shape[1] else None

    def _not_finite(self, images: Tensor, output: Tensor) -> str:
        dtype, wrong = str(self.dtype).removeprefix("torch."), int((~output.isfinite()).sum())
        found = f"tower {self.resolved.spec.name!r} in {dtype} gave {wrong} of {output.numel()} features that are not finite"
        if not images.isfinite().all():
            return f"{found}. The pixels are not finite either. Try: check the code that makes the pixels"
        if torch.float16 in (self.dtype, output.dtype):
            return f"{found}. Try: `tower.dtype: bfloat16`, with pixels of that dtype too (the output has their dtype)"
        return f"{found}. Try: `tower.dtype: float32`; if that is set, the weights are damaged, so download them again"

    def _check_size(self, pixels: Tensor) -> None:
        size, own = tuple(pixels.shape[-2:]), self.shape.image_size
        rows, cols = own[0] // self.shape.stages[0].grid[0], own[1] // self.shape.stages[0].grid[1]
        whole = size[0] % rows == 0 == size[1] % cols and min(size) > 0
        if size == own or self.input_sizes == "any" or (self.input_sizes == "patches" and whole):
            return
        step = "" if self.input_sizes == "fixed" else f", or any height of {rows} x n and width of {cols} x n"
        raise VitaError(
            f"tower {self.resolved.spec.name!r} takes pictures of {own[0]} x {own[1]} pixels{step}, not {size[0]} x {size[1]}. "
            "Try: prepare the pictures with the tower's image_processor"
        )

    def _check_states(self, states: Mapping[int, Tensor], grid: Grid, pixels: Tensor) -> None:
        """Raise VitaError if an encoder whose shape was measured gives something else for pictures of its own size."""
        if (
            self.resolved.spec.shape is not None
            or self.opened is not None
            or tuple(pixels.shape[-2:]) != self.shape.image_size
        ):
            return
        for layer, state in states.items():
            stage = self.shape.stages[layer]
            expected = (self.shape.prefix_tokens + stage.grid[0] * stage.grid[1], stage.channels)
            if tuple(state.shape[1:]) != expected or tuple(grid) != stage.grid:
                raise VitaError(
                    f"tower {self.resolved.spec.name!r}: layer {layer} gives {tuple(state.shape[1:])} on a grid of {grid}, "
                    f"but {expected} on {stage.grid} was measured. Try: give its TowerSpec a shape function"
                )

    def _selected(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """Return the selected tokens (M, N, C) of pixels (M, 3, H, W), and their grid. Long batches run in parts."""
        self._check_size(pixels)
        encode = compiled(type(self).encode) if self._compiled_whole else type(self).encode
        layers = sorted(set(self.resolved.geometry.layers))
        parts: list[Tensor] = []
        name = self.resolved.spec.name
        with compile_errors(name, self.settings.compile):
            for part, (states, grid) in in_memory(
                lambda part: encode(self, part, layers), pixels, self._at_once(pixels), name
            ):
                self._check_states(states, grid, part)
                parts.append(self._scaled(states))
        return parts[0] if len(parts) == 1 else torch.cat(parts), grid

    def _scaled(self, states: Mapping[int, Tensor]) -> Tensor:
        tokens, scale = self.feature_select(states), self.settings.feature_scale
        return self.pruned(tokens if scale is None else tokens * scale, states)

    def _at_once(self, pixels: Tensor) -> int:
        assert self.encoder is not None
        if torch.is_grad_enabled() and (
            pixels.requires_grad or any(p.requires_grad for p in self.encoder.parameters())
        ):
            return len(pixels)  # the graph keeps every activation, so parts would save no memory
        run = self.shape.stages[: max(self.resolved.geometry.layers) + 1]
        return self.settings.max_batch or pictures_at_once(pixels, self.shape, run)

    def feature_select(self, hidden_states: Any) -> Tensor:
        """Return the selected layers (B, N, C), concatenated on channels, without other tokens, normed if ``norm: true``.

        `hidden_states` is a sequence, a mapping, or an object with ``.hidden_states``.
        """
        states = getattr(hidden_states, "hidden_states", hidden_states)
        chosen = [states[layer] for layer in self.resolved.geometry.layers]
        if self.settings.norm:
            chosen = [self.final_norm(tokens) for tokens in chosen]
        tokens = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)
        kind, shape = self.settings.select_feature or "patch", self.shape
        return features.select_feature(tokens, kind, shape.prefix_tokens, shape.suffix_tokens)


def _check_pixels(images: Tensor, leading: tuple[int, ...]) -> None:
    """Raise VitaError unless the shape of `images` is `leading`, a height and a width."""
    if images.ndim != len(leading) + 2 or tuple(images.shape[:-2]) != leading:
        one = ", ".join(map(str, [*(leading[1:] or leading), "H", "W"]))
        raise VitaError(
            f"pixels have the wrong shape: {tuple(images.shape)}. Try: pixels (B, {one}), or a list of ({one})"
        )
