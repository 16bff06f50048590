"""Ask a model about pictures or a video; shared by ``vita run`` and ``vita demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.common import open_model, print_json
from vita_core.models.videos import open_video

if TYPE_CHECKING:
    from vita_core.models.pictures import Picture
    from vita_core.planning.resolution import Resolved

__all__ = [
    "MaxTilesOption",
    "MaxTokensOption",
    "ModelBaseOption",
    "SystemOption",
    "TowerWeightsOption",
    "ask",
]

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


def ask(
    resolved: Resolved,
    pictures: Sequence[Path],
    question: str | None,
    *,
    video: Path | None,
    max_frames: int | None,
    system: str | None,
    max_new_tokens: int | None,
    json: bool,
) -> None:
    """Build the model, ask it about `pictures` or a video (see `open_video`), and print the answer.

    The answer is printed piece by piece, or as a whole as JSON. Raises VitaError.
    """
    from vita_core.pixels.images import MAX_PIXELS, open_picture
    from vita_core.planning.videos import refuse_stills

    if pictures:
        refuse_stills(resolved.tower, f"{pictures[0]}: it is given as a still picture")
    limit = resolved.config.images.max_pixels or MAX_PIXELS
    # open the pictures before a weight is read, so that mistakes are reported early
    opened: list[Picture] = [open_picture(picture, max_pixels=limit) for picture in pictures]
    if video is not None:
        opened += open_video(resolved, video, max_frames)
    answer = open_model(resolved).ask(
        opened, question, system=system, max_new_tokens=max_new_tokens, on_text=None if json else _show
    )
    if json:
        print_json(answer.to_dict())
    else:
        typer.echo()


def _show(text: str) -> None:
    typer.echo(text, nl=False)
