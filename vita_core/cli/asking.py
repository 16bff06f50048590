"""What ``vita run`` and ``vita demo`` share: asking a resolved model about pictures or a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.common import open_model, print_json

if TYPE_CHECKING:
    from vita_core.planning.resolution import Resolved

__all__ = [
    "UNTILED",
    "MaxFramesOption",
    "MaxTilesOption",
    "MaxTokensOption",
    "ModelBaseOption",
    "SystemOption",
    "TowerWeightsOption",
    "ask",
]

UNTILED = ("images.tiles=null", "images.anyres=null")
"""Overrides for a video: its frames are not cut into tiles, as in VITA."""

TowerWeightsOption = Annotated[
    str | None, typer.Option("--tower-weights", metavar="DIR", help="The tower of a VITA or LLaVA checkpoint.")
]
MaxTilesOption = Annotated[
    int | None, typer.Option("--max-tiles", min=1, help="Most tiles to cut a picture into, the thumbnail not counted.")
]
ModelBaseOption = Annotated[
    str | None, typer.Option("--model-base", metavar="DIR", help="The base of a projector or LoRA adapter.")
]
SystemOption = Annotated[str | None, typer.Option(help="System text, as the checkpoint was trained with.")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="Most tokens to answer with.")]
MaxFramesOption = Annotated[int, typer.Option(min=1, help="Most frames of a video, thinned evenly.")]


def ask(
    resolved: Resolved,
    pictures: Sequence[Path],
    question: str | None,
    *,
    video: Path | None,
    max_frames: int,
    system: str | None,
    max_new_tokens: int | None,
    json: bool,
) -> None:
    """Build the model, ask it about pictures and at most `max_frames` frames of a video, and print the answer as it is
    made, or all of it as JSON. Raises VitaError."""
    from vita_core.pixels.images import MAX_PIXELS, open_picture

    limit = resolved.config.images.max_pixels or MAX_PIXELS
    opened = [open_picture(picture, max_pixels=limit) for picture in pictures]  # reported before a weight is read
    if video is not None:
        from vita_core.pixels.video import read_frames

        opened += [open_picture(frame, max_pixels=limit) for frame in read_frames(video, max_frames)]
    answer = open_model(resolved).ask(
        opened, question, system=system, max_new_tokens=max_new_tokens, on_text=None if json else _show
    )
    if json:
        print_json(answer.to_dict())
    else:
        typer.echo()


def _show(text: str) -> None:
    typer.echo(text, nl=False)
