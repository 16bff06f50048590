"""Read the tokens of a tower for several selections of its layers. The encoder runs once for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.errors import ConfigError, VitaError
from vita_core.models.pictures import Picture, encoded, grid_of, prepare
from vita_core.pixels.fused import Pixels
from vita_core.planning.geometry import Grid, tower_geometry
from vita_core.planning.reduction_weights import check_trained
from vita_core.planning.resolution import Resolved
from vita_core.planning.towers import ResolvedTower
from vita_core.towers.devices import copied, pick_device
from vita_core.towers.reducing import load_reduction
from vita_core.towers.tower import BaseVisionTower, unloaded

__all__ = ["Tokens", "TowerReader", "gridded", "single_layers"]


@dataclass(frozen=True)
class Tokens:
    """The tokens (N, C) of one picture in float32, on the CPU, and their grid if they have one."""

    tokens: Tensor
    grid: Grid | None


def single_layers(tower: ResolvedTower) -> tuple[list[ResolvedTower], dict[int, str]]:
    """Return a tower with each of its layers selected alone, and for the other layers why they cannot be.

    Raises ConfigError for several encoders as one, whose layers belong to the parts, and for reductions inside the blocks.
    """
    if tower.parts:
        raise ConfigError(
            "--every-layer: several encoders as one have no common layers. Try: a config for each encoder, or leave it out"
        )
    if tower.geometry.inside or any(step.spec.scores for step in tower.geometry.reductions):
        raise ConfigError(
            "--every-layer: a reduction runs in the blocks of the encoder, so its layers have different tokens. "
            "Try: `--set tower.reduce=null`"
        )
    found, without = [], {}
    width = tower.shape.stages[-1].channels
    for layer in range(tower.shape.first_layer, tower.shape.layers + 1):
        # nothing is trained here, and a `freeze` of more layers than are left would be refused
        settings = tower.settings.model_copy(update={"select_layer": layer, "freeze": True})
        try:
            if settings.norm and tower.shape.stages[layer].channels != width:
                raise ConfigError(
                    "tower.norm: the final norm has another width than this layer. Try: `tower.norm: false`"
                )
            found.append(replace(tower, settings=settings, geometry=tower_geometry(settings, tower.shape)))
        except VitaError as error:
            without[layer] = str(error)
    return found, without


def gridded(tower: ResolvedTower) -> bool:
    """Whether the tokens of a picture stand on a grid, with none beside it."""
    grid = tower.geometry.grid
    return grid is not None and math.prod(grid) == tower.geometry.num_tokens


class TowerReader:
    """A loaded tower that gives its tokens for each of the `selections`, which differ in their layers only.

    The tokens are those that a language model would get: with the config's preprocessing, S2, reductions and several encoders.
    A picture is not cut into tiles. On a CPU each picture goes through the encoder alone, so that its tokens do not depend on
    the others. Raises VitaError if the tower cannot be loaded.
    """

    def __init__(self, resolved: Resolved, selections: Sequence[ResolvedTower]) -> None:
        self.images = resolved.config.images.model_copy(update={"tiles": None, "anyres": None})
        self.selections = [_plain(selection) for selection in selections]
        deepest = max(self.selections, key=lambda one: max(one.geometry.layers))
        check_trained(deepest)
        self.tower = _built(deepest, self.selections, pick_device(resolved.config.device))
        self.reductions = [self._reductions(selection) for selection in self.selections]

    def _reductions(self, selection: ResolvedTower) -> nn.ModuleList:
        if selection is self.tower.resolved:
            return self.tower.reductions
        device, dtype = self.tower.device, self.tower.dtype
        with torch.device("cpu"):
            steps = [load_reduction(step, dtype=dtype, device=device)[0] for step in selection.geometry.reductions]
        return nn.ModuleList(steps).eval()

    @property
    def together(self) -> int:
        """How many pictures go through the encoder at once."""
        return 1 if self.tower.device.type == "cpu" else 16

    def prepare(self, picture: Picture) -> Pixels:
        """Return the pixels of a picture on the tower's device. Threads may call it."""
        pixels = prepare(self.tower, self.images, picture).pixels
        return copied(pixels, self.tower.device)

    @torch.inference_mode()
    def read(self, pictures: Sequence[Pixels]) -> list[list[Tokens]]:
        """Return for each selection the tokens of each picture."""
        parts = [self._read(pictures[at : at + self.together]) for at in range(0, len(pictures), self.together)]
        return [[tokens for part in parts for tokens in part[place]] for place in range(len(self.selections))]

    def _read(self, pictures: Sequence[Pixels]) -> list[list[Tokens]]:
        tower, deepest, modules = self.tower, self.tower.resolved, self.tower.reductions
        found = []
        try:
            for tower.resolved, tower.reductions in zip(self.selections, self.reductions, strict=True):
                grids = [grid_of(tower, pixels) for pixels in pictures]
                found.append([_tokens(*each) for each in zip(encoded(tower, pictures), grids, strict=True)])
        finally:
            tower.resolved, tower.reductions = deepest, modules
            tower.__dict__.pop("remembered", None)
        return found


def _plain(selection: ResolvedTower) -> ResolvedTower:
    """Return a tower without compilation, which does not pay for one pass."""
    parts = tuple(_plain(part) for part in selection.parts)
    return replace(selection, settings=selection.settings.model_copy(update={"compile": False}), parts=parts)


def _tokens(tiles: Tensor, grid: Grid | None) -> Tokens:
    tokens = tiles.flatten(0, 1).to("cpu", torch.float32)
    return Tokens(tokens, grid if grid is not None and math.prod(grid) == len(tokens) else None)


def _built(deepest: ResolvedTower, selections: Sequence[ResolvedTower], device: torch.device) -> BaseVisionTower:
    tower = unloaded(deepest, device)
    if len(selections) > 1:
        tower.__class__ = _remembering(type(tower), sorted({n for one in selections for n in one.geometry.layers}))
    tower.load_model()
    return tower.eval()


def _remembering(base: Any, wanted: Sequence[int]) -> Any:
    """Return a subclass of a class of towers that runs the encoder for all `wanted` layers, once for the same pixels."""

    class Remembering(base):  # type: ignore[misc]  # the class is known at run time only
        remembered: tuple[tuple[list[Tensor], Any], ...] = ()

        def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[Mapping[int, Tensor], Grid]:
            states, grid = self._once([pixels], lambda: super(Remembering, self).encode(pixels, wanted))
            # a hierarchical encoder gives the grid of its last layer
            own = self.shape.stages[max(layers)].grid if pixels.shape[-2:] == self.shape.image_size else grid
            return {layer: states[layer] for layer in layers}, own

        def encode_pictures(self, pictures: Sequence[Tensor], layers: Sequence[int]) -> Any:
            run = self._once([*pictures], lambda: super(Remembering, self).encode_pictures(pictures, wanted))
            return [({layer: states[layer] for layer in layers}, grid) for states, grid in run]

        def _once(self, pixels: list[Tensor], run: Any) -> Any:
            for kept, found in self.remembered:
                if len(kept) == len(pixels) and all(map(torch.equal, kept, pixels)):
                    return found
            self.remembered = (*self.remembered, (pixels, run()))
            return self.remembered[-1][1]

    Remembering.__name__ = base.__name__
    return Remembering
