"""Ask a model about pictures or a video; shared by ``vita run`` and ``vita demo``."""

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
"""Overrides for a video, whose frames are not cut into tiles, as in VITA."""

TowerWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--tower-weights",
        metavar="DIR",
        help="The tower of a VITA or LLaVA checkpoint, if the path in its config does not exist.",
    ),
]
MaxTilesOption = Annotated[
    int | None,
    typer.Option("--max-tiles", min=1, help="Cut a picture into at most this many tiles, not counting the thumbnail."),
]
ModelBaseOption = Annotated[
    str | None,
    typer.Option(
        "--model-base",
        metavar="DIR",
        help="The language model that DIR was trained on, if DIR has only a projector or adapter.",
    ),
]
SystemOption = Annotated[str | None, typer.Option(help="The system text that the checkpoint was trained with.")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="The largest number of tokens of an answer.")]
MaxFramesOption = Annotated[int, typer.Option(min=1, help="Use at most this many frames of a video, evenly spaced.")]


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
    """Build the model, ask it about `pictures` and at most `max_frames` frames of a video, and print the answer.

    The answer is printed piece by piece, or as a whole as JSON. Raises VitaError.
    """
    from vita_core.pixels.images import MAX_PIXELS, open_picture

    limit = resolved.config.images.max_pixels or MAX_PIXELS
    # open the pictures before a weight is read, so that mistakes are reported early
    opened = [open_picture(picture, max_pixels=limit) for picture in pictures]
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
