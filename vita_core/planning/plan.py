"""Plan a model: the shapes, tokens, parameters, memory and FLOPs of each stage, computed without weights or torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vita_core.errors import PictureError
from vita_core.planning.geometry import Grid
from vita_core.planning.native import of_picture
from vita_core.planning.origins import Setting, preprocessing, used_settings
from vita_core.planning.resolution import Place, Resolved, resolve
from vita_core.planning.stages import BYTES, PlannedStage, llm_stage, projector_stage, tower_stages
from vita_core.planning.tiling import most_tokens, tiles_and_tokens
from vita_core.planning.towers import ResolvedTower
from vita_core.planning.videos import refuse_stills
from vita_core.plugins.native import MAX_ASPECT

__all__ = ["Plan", "PlannedPart", "make_plan"]


@dataclass(frozen=True)
class PlannedPart:
    """One encoder of a fused tower, with the sizes and costs that a `Plan` of it alone would have."""

    rule: str
    tower: str
    owner: str
    weights: str
    pixels: tuple[int, int]
    settings: tuple[Setting, ...]
    layers: tuple[int, ...]
    grid: tuple[int, ...] | None
    tokens: int
    crops: int
    stages: tuple[PlannedStage, ...]


@dataclass(frozen=True)
class Plan:
    """The sizes and costs of a config, for one picture, or for one video of `frames` frames if the tower takes videos.

    `rule` says why the tower was chosen, and `settings` where the values of its config come from. `picture` is the picture's
    (width, height) in pixels, or None for the largest costs of any picture (for native resolution, of a square one). It is
    cut into `tiles` tiles, resized to `pixels` (height, width) each, and the encoder runs on `crops` pictures per tile (S2).
    Behind the projector, the tokens of a tile are on `projected_grid`, which is None if they are on none, and for a tower alone.
    `cache_bytes` is the size of the key-value cache of the visual tokens. `budget` is the fewest and most tokens that a tower
    of native resolution gives a picture, or None. Of a fused tower, `parts` are its encoders, whose costs are those of the
    stage ``tower`` together.
    """

    rule: str
    tower: str
    owner: str
    weights: str
    picture: tuple[int, int] | None
    pixels: tuple[int, int]
    settings: tuple[Setting, ...]
    layers: tuple[int, ...]
    grid: tuple[int, ...] | None
    projected_grid: tuple[int, ...] | None
    tokens: int
    budget: tuple[int, int] | None
    frames: int | None
    tiles: int
    crops: int
    stages: tuple[PlannedStage, ...]
    parameters: int
    weight_bytes: int
    cache_bytes: int
    flops: int
    parts: tuple[PlannedPart, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``vita plan --json`` prints it."""
        return asdict(self)


def make_plan(config: Resolved | Place, *, picture: tuple[int, int] | None = None) -> Plan:
    """Plan a config, or anything else that `resolve` takes. No weight is read; known hub ids need no network.

    The costs are those of one picture of the size `picture`, (width, height) in pixels. Without a size, it is cut into as
    many tiles as the config allows. Of the prompt, only the visual tokens count. A tower alone has no stages for a projector
    and a language model. Raises ConfigError, PluginError or CheckpointError, and PictureError for a picture that is too
    narrow.
    """
    resolved = config if isinstance(config, Resolved) else resolve(config, offline=True)
    if picture is not None:
        refuse_stills(resolved.tower, "--picture: it is the size of a still picture")
    tower, tiles, tokens = _of_picture(resolved, picture)
    geometry = tower.geometry
    clip = () if tower.shape.frames is None else (tower.shape.frames,)
    first = "video" if clip else "picture"
    pixels = PlannedStage(first, "pixels", (tiles, *clip, 3, *geometry.input_size), 0, 0, 0)
    stages = [pixels, *tower_stages(tower, tiles)]
    cache = 0
    if resolved.llm is not None and resolved.projector is not None:
        dtype, llm = BYTES[resolved.llm.settings.dtype], resolved.llm.shape()
        stages.append(projector_stage(resolved.projector, llm.hidden_size, tower, tiles, dtype))
        stages.append(llm_stage(resolved.llm, llm, tokens, dtype))
        cache = llm.cache_values_per_token * tokens * dtype
    return Plan(
        rule=tower.rule,
        tower=tower.spec.name,
        owner=str(tower.owner),
        weights=tower.source.weights,
        picture=picture,
        pixels=geometry.input_size,
        settings=_settings(tower),
        layers=() if tower.parts else geometry.layers,
        grid=geometry.grid,
        projected_grid=None if resolved.projector is None else _of_tile(resolved, tower)[0],
        tokens=tokens,
        budget=tower.budget,
        frames=tower.shape.frames,
        tiles=tiles,
        crops=geometry.crops,
        stages=tuple(stages),
        parameters=sum(stage.parameters for stage in stages),
        weight_bytes=sum(stage.weight_bytes for stage in stages),
        cache_bytes=cache,
        flops=sum(stage.flops for stage in stages),
        parts=tuple(_part(part, tiles) for part in tower.parts),
    )


def _settings(tower: ResolvedTower) -> tuple[Setting, ...]:
    used = used_settings(tower.settings, tower.shape, tower.origins)
    if tower.parts:  # each part prepares its own pixels
        return used
    return *used, preprocessing(tower.processor, tower.source, tower.spec)


def _part(part: ResolvedTower, tiles: int) -> PlannedPart:
    geometry = part.geometry
    return PlannedPart(
        rule=part.rule,
        tower=part.spec.name,
        owner=str(part.owner),
        weights=part.source.weights,
        pixels=geometry.input_size,
        settings=_settings(part),
        layers=geometry.layers,
        grid=geometry.grid,
        tokens=geometry.num_tokens,
        crops=geometry.crops,
        stages=tuple(tower_stages(part, tiles)),
    )


def _of_picture(resolved: Resolved, picture: tuple[int, int] | None) -> tuple[ResolvedTower, int, int]:
    """Return the tower with its sizes for a picture of (width, height), and the picture's tiles and visual tokens."""
    tower, images = resolved.tower, resolved.config.images
    side = tower.geometry.input_size[0]
    if picture is None:
        grid, tokens = _of_tile(resolved, tower)
        most = most_tokens(images, grid, tokens)
        return tower, images.most_tiles, most + _ends(resolved, grid) * images.most_tiles
    width, height = picture
    if min(picture) < 2 or max(picture) > MAX_ASPECT * min(picture):
        raise PictureError(
            f"a picture of {width} x {height} pixels is not opened: it has fewer than 2 pixels on a side, or an aspect ratio "
            f"above {MAX_ASPECT}:1. Try: crop it into shorter pieces"
        )
    longer = max(width, height)
    shown = (longer, longer) if images.aspect == "pad" else (height, width)
    tower = of_picture(tower, *((side, side) if images.tiles or images.anyres else shown))
    grid, tokens = _of_tile(resolved, tower)
    tiles, whole = tiles_and_tokens(images, picture, side, grid, tokens)
    return tower, tiles, whole + _ends(resolved, grid) * tiles


def _of_tile(resolved: Resolved, tower: ResolvedTower) -> tuple[Grid | None, int]:
    """Return the grid and the number of the tokens of one tile behind the projector, or behind a tower alone."""
    grid, tokens = tower.geometry.grid, tower.geometry.num_tokens
    return (grid, tokens) if resolved.projector is None else resolved.projector.behind(grid, tokens)


def _ends(resolved: Resolved, grid: Grid | None) -> int:
    """Return the number of tokens that the prompt puts behind the rows of a tile."""
    return 0 if resolved.config.prompt.row_tokens is None or grid is None else grid[-2]
