"""Towers of videos: the number of frames, and the error for a still picture."""

from __future__ import annotations

from dataclasses import replace

from vita_core.config.images import ImagesConfig
from vita_core.errors import ConfigError
from vita_core.planning.asking import shape_of
from vita_core.planning.fused import ResolvedFused, joined
from vita_core.planning.geometry import tower_geometry
from vita_core.planning.towers import ResolvedTower

__all__ = ["refuse_stills", "with_frames"]


def with_frames(tower: ResolvedTower, images: ImagesConfig) -> tuple[ResolvedTower, ImagesConfig]:
    """Return a tower of videos with the number of frames that `images` states, and `images` with that of the tower.

    Raises ConfigError if the encoder does not take that number, and if the frames would be cut into tiles.
    """
    frames, name = tower.shape.frames, f"tower {tower.spec.name!r}"
    if frames is None:
        return tower, images
    for key in ("tiles", "anyres"):
        if getattr(images, key) is not None:
            raise ConfigError(f"images.{key}: {name} takes videos, whose frames are not cut. Try: `images.{key}: null`")
    if isinstance(tower, ResolvedFused):
        parts = [with_frames(part, images) for part in tower.parts]
        return joined(tower, [part for part, _ in parts]), parts[0][1]
    if images.frames not in (None, frames) and tower.spec.shape is not None:
        shape = shape_of(tower.spec, tower.owner, tower.source, tower.settings.options, frames=images.frames)
        tower = replace(tower, shape=shape, geometry=tower_geometry(tower.settings, shape))
    if images.frames not in (None, tower.shape.frames):
        raise ConfigError(
            f"images.frames: {name} takes videos of {frames} frames, not of {images.frames}. Try: `images.frames: {frames}`"
        )
    return tower, images.model_copy(update={"frames": tower.shape.frames})


def refuse_stills(tower: ResolvedTower, given: str) -> None:
    """Raise ConfigError if the tower takes videos. `given` says where there are still pictures, for the message."""
    frames = tower.shape.frames
    if frames is not None:
        raise ConfigError(
            f"{given}, but tower {tower.spec.name!r} takes videos of {frames} frames. Try: `--video FILE`, of which "
            f"`images.frames: {frames}` are used, or a tower of pictures"
        )
