"""Open a video for a tower, as one clip or as the frames that a tower of pictures takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from vita_core.pixels.video import Clip
    from vita_core.planning.resolution import Resolved

__all__ = ["UNTILED", "open_video"]

UNTILED = ("images.tiles=null", "images.anyres=null")
"""Overrides for a video, whose frames are not cut into tiles, as in VITA."""
FRAMES = 16
"""How many frames of a video a tower of pictures sees at most if nothing else is said."""


def open_video(resolved: Resolved, file: Path, max_frames: int | None) -> Sequence[Clip | Image.Image]:
    """Return a video as one clip if the tower takes videos, else its frames, one a second and at most `max_frames`.

    Raises PictureError for a file that cannot be read, and ConfigError if the tower takes another number of frames.
    """
    from vita_core.errors import ConfigError
    from vita_core.pixels.images import MAX_PIXELS, open_picture
    from vita_core.pixels.video import is_still, read_clip, read_frames
    from vita_core.planning.videos import refuse_stills

    images, frames = resolved.config.images, resolved.tower.shape.frames
    if frames is not None:
        if max_frames not in (None, frames):
            raise ConfigError(
                f"max_frames: tower {resolved.tower.spec.name!r} takes videos of {frames} frames, not of {max_frames}. "
                "Try: leave out --max-frames"
            )
        if is_still(file):
            refuse_stills(resolved.tower, f"{file}: it is a still picture")
        return [read_clip(file, frames)]
    found = read_frames(file, max_frames or images.frames or FRAMES)
    return [open_picture(frame, max_pixels=images.max_pixels or MAX_PIXELS) for frame in found]
