"""What ``vita run`` and ``vita demo`` share: a config of ours or a directory of another project, and asking it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.common import print_json, quiet_transformers

if TYPE_CHECKING:
    from vita_core.config.schema import Config
    from vita_core.models.model import VisionLanguageModel
    from vita_core.models.opening import Opened

__all__ = ["UNTILED", "MaxTilesOption", "TowerWeightsOption", "ask", "config_of", "open_settled", "settle"]

UNTILED = ("images.tiles=null", "images.anyres=null")
"""Overrides for a video: its frames are not cut into tiles, as in VITA."""

TowerWeightsOption = Annotated[
    str | None, typer.Option("--tower-weights", metavar="DIR", help="The tower of a VITA or LLaVA checkpoint.")
]
MaxTilesOption = Annotated[
    int | None, typer.Option("--max-tiles", min=1, help="Most tiles to cut a picture into, the thumbnail not counted.")
]


def settle(
    place: str, *, tower_weights: str | None, model_base: str | None, max_tiles: int | None, overrides: Sequence[str]
) -> Config | Opened:
    """What `place` is, every file but the weights read. Raises ConfigError or CheckpointError."""
    from vita_core.config.schema import load_config
    from vita_core.errors import ConfigError
    from vita_core.models.opening import is_checkpoint, open_checkpoint

    if is_checkpoint(place):
        return open_checkpoint(
            place, tower_weights=tower_weights, model_base=model_base, overrides=overrides, max_tiles=max_tiles
        )
    for flag, value in (("--tower-weights", tower_weights), ("--model-base", model_base)):
        if value is not None:
            raise ConfigError(f"{flag} goes with the directory of a VITA or LLaVA checkpoint, which {place} is not")
    config = load_config(place, overrides)
    return config if max_tiles is None else config.model_copy(update={"images": config.images.at_most(max_tiles)})


def config_of(settled: Config | Opened) -> Config:
    """The config that `settle` settled on."""
    from vita_core.config.schema import Config

    return settled if isinstance(settled, Config) else settled.config


def open_settled(settled: Config | Opened) -> VisionLanguageModel:
    """The model; what was taken from a checkpoint and what was skipped is told on stderr."""
    quiet_transformers()
    from vita_core.models.building import build_model

    for note in getattr(settled, "notes", ()):
        typer.echo(note, err=True)
    return build_model(settled)


def ask(
    settled: Config | Opened,
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
    made, or all of it as JSON."""
    from vita_core.pixels.images import MAX_PIXELS, open_picture

    limit = config_of(settled).images.max_pixels or MAX_PIXELS
    opened = [open_picture(picture, max_pixels=limit) for picture in pictures]  # told before any weight is read
    if video is not None:
        from vita_core.pixels.video import read_frames

        opened += [open_picture(frame, max_pixels=limit) for frame in read_frames(video, max_frames)]
    answer = open_settled(settled).ask(
        opened, question, system=system, max_new_tokens=max_new_tokens, on_text=None if json else _show
    )
    if json:
        print_json(answer.to_dict())
    else:
        typer.echo()


def _show(text: str) -> None:
    typer.echo(text, nl=False)
