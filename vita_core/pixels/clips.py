"""Turn transformers' processors of videos into ones that are called as those of pictures are."""

from __future__ import annotations

import inspect
from typing import Any

from PIL import Image

from vita_core.pixels.images import to_rgb

__all__ = ["clip_processor", "takes_videos"]


def takes_videos(base: Any) -> bool:
    """Return whether a processor class of transformers processes the frames of a video together."""
    return "videos" in inspect.signature(base.preprocess).parameters


def clip_processor(base: Any, reduce: Any) -> Any:
    """Return a subclass of `base`, a processor of videos. `reduce` is its ``__reduce__``.

    Its ``preprocess`` takes the frames of one video, PIL pictures of any mode, or a list of videos. It processes every
    frame that it is given, and returns them as ``pixel_values`` (videos, frames, 3, H, W).
    """

    def preprocess(self: Any, videos: Any, **options: Any) -> Any:
        if hasattr(self, "sample_frames"):
            options["do_sample_frames"] = False
        found = base.preprocess(self, _rgb(videos), **options)
        if "pixel_values" not in found:
            found["pixel_values"] = found.pop("pixel_values_videos")
        return found

    return type(base.__name__, (base,), {"preprocess": preprocess, "__reduce__": reduce})


def _rgb(videos: Any) -> Any:
    if isinstance(videos, list | tuple):
        return [_rgb(video) for video in videos]
    return to_rgb(videos) if isinstance(videos, Image.Image) else videos
