"""Towers of videos: the number of frames, and the error for a still picture."""

from __future__ import annotations

from vita_core.config.images import ImagesConfig
from vita_core.errors import ConfigError
from vita_core.planning.towers import ResolvedTower

__all__ = ["refuse_stills", "with_frames"]


def with_frames(tower: ResolvedTower, images: ImagesConfig) -> ImagesConfig:
    """Return `images` with the number of frames that a tower of videos takes.

    Raises ConfigError if `images` states another number, and if the frames would be cut into tiles.
    """
    frames, name = tower.shape.frames, f"tower {tower.spec.name!r}"
    if frames is None:
        return images
    for key in ("tiles", "anyres"):
        if getattr(images, key) is not None:
            raise ConfigError(f"images.{key}: {name} takes videos, whose frames are not cut. Try: `images.{key}: null`")
    if images.frames not in (None, frames):
        raise ConfigError(
            f"images.frames: {name} takes videos of {frames} frames, not of {images.frames}. Try: `images.frames: {frames}`"
        )
    return images.model_copy(update={"frames": frames})


def refuse_stills(tower: ResolvedTower, given: str) -> None:
    """Raise ConfigError if the tower takes videos. `given` says where there are still pictures, for the message."""
    frames = tower.shape.frames
    if frames is not None:
        raise ConfigError(
            f"{given}, but tower {tower.spec.name!r} takes videos of {frames} frames. Try: `--video FILE`, of which "
            f"`images.frames: {frames}` are used, or a tower of pictures"
        )
