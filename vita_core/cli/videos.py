"""The option of commands that are given videos."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["MaxFramesOption"]

MaxFramesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Use at most this many frames of a video, evenly spaced. Default: images.frames, or 16. "
        "A tower of videos always takes its own number.",
    ),
]
