"""Resolve several encoders that work as one tower: each part alone, then how their tokens are joined. No weight is read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vita_core.config.fused import FUSED
from vita_core.config.schema import TowerConfig
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.asking import shape_of
from vita_core.planning.encoders import ResolvedTower, resolve_encoder
from vita_core.planning.geometry import Geometry, Grid, in_whole_blocks, tower_geometry
from vita_core.planning.origins import key_origins
from vita_core.planning.reductions import reduced, resolve_reductions, stated_steps
from vita_core.plugins.native import NativeSize
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import Shape, Stage, TowerSpec
from vita_core.weights.sources import Source

__all__ = ["ResolvedFused", "in_part", "joined", "resolve_fused", "sized"]


@dataclass(frozen=True)
class ResolvedFused(ResolvedTower):
    """Several resolved towers, the `parts`, whose tokens are joined to one sequence of tokens.

    `shape` has one stage, the joined tokens of a picture of the first part's size, before the reductions of the whole.
    `geometry.patch_grid` is their grid, or their number if they have no grid.
    """

    @property
    def parameters(self) -> int:
        """The number of parameters of all parts, without those of reductions."""
        return sum(part.parameters for part in self.parts)

    @property
    def most_tokens(self) -> int:
        """The largest number of output tokens of one picture. Only with native resolution it exceeds that of a square one."""
        if self.gridded or self.shape.native is None:
            return super().most_tokens
        sizes: tuple[int, ...] = (sum(part.most_tokens for part in self.parts), self.shape.stages[0].channels)
        for step in self.geometry.reductions:
            sizes = step.sizes(sizes)
        return math.prod(sizes[:-1])

    @property
    def budget(self) -> tuple[int, int] | None:
        """The fewest and most output tokens of a picture, for native resolution with tokens on a grid."""
        return super().budget if self.gridded else None

    @property
    def by_blocks(self) -> bool:
        """Whether each output token is a block of the first part's patches."""
        return self.parts[0].by_blocks and super().by_blocks

    def grid_of(self, height: int, width: int) -> Grid | None:
        """Return the grid of the output tokens for pixels of the first part of (height, width), or None without a grid."""
        grid = self.parts[0].grid_of(height, width)
        if not self.gridded or self.shape.native is None or grid is None:
            return self.geometry.grid
        *places, _ = reduced(self.geometry.reductions, (*grid, self.shape.stages[0].channels))
        return tuple(places) if len(places) > 1 else None

    @property
    def gridded(self) -> bool:
        """Whether the joined tokens have a grid, before the reductions of the whole."""
        return len(self.geometry.patch_grid) > 1


@contextmanager
def in_part(place: int) -> Iterator[None]:
    """Let errors of one part name its keys: ``tower.towers.0.norm`` for ``tower.norm``."""
    try:
        yield
    except VitaError as error:
        name = f"tower.towers.{place}"
        lines = [re.sub(r"(?<![\w.])tower\.(?=[a-z])", f"{name}.", line) for line in error.args]
        raise type(error)(*(line if line.startswith(name) else f"{name}: {line}" for line in lines)) from error


def resolve_fused(settings: TowerConfig, *, offline: bool, marks: Mapping[str, str]) -> ResolvedFused:
    """Resolve each part of a fused tower, and check that their tokens can be joined as its config says.

    Raises ConfigError, PluginError or CheckpointError before any weight is read.
    """
    parts = []
    for place, config in enumerate(settings.towers or ()):
        own = f"towers.{place}."
        with in_part(place):
            marked = {key.removeprefix(own): where for key, where in marks.items() if key.startswith(own)}
            parts.append(resolve_encoder(config, offline=offline, marks=marked))
    _check_reductions(settings)
    found = registry().find(TowerSpec, FUSED)
    origins = key_origins(settings, {}, found.spec, marks)
    name = " + ".join(part.source.weights for part in parts)
    stated = {"model_type": FUSED, "towers": [dict(part.source.config) for part in parts]}
    source = Source(name, None, None, None, stated, None)
    empty = Shape((1, 1), (Stage(1, (1, 1), 0, 0),))
    whole = ResolvedFused(
        found.spec,
        found.owner,
        f"`towers` of {len(parts)} parts",
        settings,
        source,
        empty,
        Geometry((0,), 0, (1, 1), (1, 1), 1, 1, (1, 1), 1),
        {},
        origins=origins,
        parts=tuple(parts),
    )
    return joined(whole, parts)


def _check_reductions(settings: TowerConfig) -> None:
    """Raise ConfigError for a reduction of the whole that needs the blocks or the CLS token of one encoder."""
    for step in stated_steps(settings):
        if step.spec.scores or step.settings.blocks:
            what = "attention of the CLS token" if step.spec.scores else "blocks"
            raise ConfigError(
                f"{step.key}: {step.spec.name!r} needs the {what} of one encoder. Try: write it into a part of `towers`"
            )


def sized(tower: ResolvedTower, native: NativeSize) -> ResolvedTower:
    """Return a tower of native resolution with another budget. Of a fused tower, it is that of the first part."""
    if isinstance(tower, ResolvedFused):
        return joined(tower, [sized(tower.parts[0], native), *tower.parts[1:]])
    shape = shape_of(tower.spec, tower.owner, tower.source, tower.settings.options, native.square)
    shape = replace(shape, native=native)
    return replace(tower, shape=shape, geometry=tower_geometry(tower.settings, shape))


def joined(whole: ResolvedFused, parts: Sequence[ResolvedTower]) -> ResolvedFused:
    """Return `whole` with other parts, and the sizes that follow from them. Raises ConfigError if they cannot be joined."""
    whole, settings, first = replace(whole, parts=tuple(parts)), whole.settings, parts[0]
    _check_videos(parts)
    grid, tokens, width = _tokens(settings, parts)
    fixed = grid is not None and (settings.grid != "first" or first.one_size)
    native = None if fixed else first.shape.native
    macs = sum(part.macs for part in parts)
    stage = Stage(width, (grid or (1, tokens))[-2:], whole.parameters, macs)  # type: ignore[arg-type]  # a grid's last two sides
    steps = first.shape.steps if grid is not None else 1
    shape = Shape(first.geometry.input_size, (stage,), native=native, frames=first.shape.frames, steps=steps)
    if grid is not None:
        blocks = in_whole_blocks(settings, shape, lambda size: shape).native if first.by_blocks else None
        if blocks is not None and blocks != native:
            return sized(whole, blocks)  # type: ignore[return-value]  # a fused tower stays one
        geometry = tower_geometry(settings, shape)
    else:
        reductions = resolve_reductions(settings, (tokens, width))
        *places, width = reductions[-1].after if reductions else (tokens, width)
        after = tuple(places) if len(places) > 1 else None
        geometry = Geometry((0,), 0, (tokens,), after, math.prod(places), width, shape.image_size, 1, reductions)
    crops = sum(part.geometry.crops for part in parts)
    return replace(whole, shape=shape, geometry=replace(geometry, crops=crops))


def _tokens(settings: TowerConfig, parts: Sequence[ResolvedTower]) -> tuple[Grid | None, int, int]:
    """Return grid, number and width of the joined tokens. Raises ConfigError if they cannot be joined."""
    combine, widths = settings.combine, [part.geometry.hidden_size for part in parts]
    grids, counts = [_grid(part) for part in parts], [part.geometry.num_tokens for part in parts]
    if combine != "channel" and len(set(widths)) > 1:
        raise ConfigError(
            f"tower.combine: {combine!r} needs parts of equal width, but they give {_listed(widths)} channels. "
            "Try: `tower.combine: channel`"
        )
    if combine in ("channel", "sum"):
        grid = _common_grid(settings, grids, counts)
        if grid is None and not all(part.one_size for part in parts):
            raise ConfigError(
                f"tower.combine: {combine!r} joins tokens without a grid one by one, but a part keeps the aspect of each "
                "picture, which its number of tokens follows. Try: a reduction to the same number of tokens in each part, or "
                "`tower.combine: sequence`"
            )
        tokens = counts[0] if grid is None else math.prod(grid)
        return grid, tokens, sum(widths) if combine == "channel" else widths[0]
    if settings.grid != "first":
        raise ConfigError(
            f"tower.grid: {combine!r} resizes nothing: {settings.grid}. Try: leave it out, or `tower.combine: channel`"
        )
    natives = [not part.one_size for part in parts]
    if combine == "interleave" and (len({*grids}) > 1 or len({*counts}) > 1 or any(natives)):
        seen = "a part keeps the aspect of each picture" if any(natives) else f"they are {_listed(map(_sides, grids))}"
        raise ConfigError(
            f"tower.combine: 'interleave' needs equal grids, but {seen}. Try: `tower.combine: channel`, which resizes them"
        )
    if any(natives) and not natives[0]:
        raise ConfigError(
            "tower.combine: 'sequence' with a part whose number of tokens follows the picture needs it as the first one. "
            f"Try: part {natives.index(True)} of `towers` first"
        )
    return None, sum(counts), widths[0]


def _grid(part: ResolvedTower) -> Grid | None:
    """Return the grid of a part's output tokens, or None if a token stands outside it, such as CLS, or if there is none."""
    grid = part.geometry.grid
    return grid if grid is not None and math.prod(grid) == part.geometry.num_tokens else None


def _common_grid(settings: TowerConfig, grids: Sequence[Grid | None], counts: Sequence[int]) -> Grid | None:
    """Return the grid to which parts are resized, or None if none has a grid and the tokens are joined one by one."""
    combine = settings.combine
    without = [place for place, grid in enumerate(grids) if grid is None]
    if without and len(without) == len(grids) and len({*counts}) == 1 and settings.grid == "first":
        return None
    if without:
        place = without[0]
        raise ConfigError(
            f"tower.combine: {combine!r} joins tokens at their places, but part {place} of `towers` gives "
            f"{counts[place]} tokens without a grid. Try: `select_feature: patch` and a reduction that keeps a grid there, "
            "or `tower.combine: sequence`"
        )
    first = grids[0]
    if first is not None and len(first) == 3:
        if len({*grids}) > 1 or settings.grid != "first":
            raise ConfigError(
                f"tower.combine: {combine!r} of videos needs equal grids (steps, rows, cols), and resizes none: "
                f"{_listed(map(_sides, grids))}. Try: a reduction in a part that makes them equal"
            )
        return first
    return first if settings.grid == "first" else tuple(settings.grid)


def _check_videos(parts: Sequence[ResolvedTower]) -> None:
    """Raise ConfigError unless all parts take pictures, or all take videos of the same number of frames."""
    frames = [part.shape.frames for part in parts]
    if len({*frames}) > 1:
        taken = ["pictures" if count is None else f"videos of {count} frames" for count in frames]
        raise ConfigError(
            f"tower.towers: the parts take {_listed(taken)}. Try: parts that all take pictures, or videos of as many frames"
        )


def _sides(grid: Grid | None) -> str:
    return "without a grid" if grid is None else " x ".join(map(str, grid))


def _listed(values: Iterable[object]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last
