"""``vita run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import ConfigArgument, JsonOption, SetOption, open_model, print_json


def run(
    config: ConfigArgument,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="PICTURE", help="A picture; give it again for more.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A video: one frame a second, none of them tiled.")] = None,
    max_frames: Annotated[int, typer.Option(min=1, help="Most frames of --video, thinned evenly.")] = 16,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Ask about every picture below it; needs --jsonl.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Where --images writes a row each. Call again to resume.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="How many pictures of --images are asked about together.")] = 8,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Default: the config's prompt.question.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text, as the checkpoint was trained with.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to answer with.")] = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about one picture or more, a video, or each picture of a folder; an answer streams as it is made."""
    from vita_core.config import load_config
    from vita_core.errors import ConfigError

    settings = load_config(config, overrides or ())
    if sum(bool(given) for given in (image, video, images)) != 1 or (images is None) != (jsonl is None):
        raise ConfigError(
            "give one of --image, --video and --images; --images goes with --jsonl OUT, the others without"
        )
    from vita_core.images import MAX_PIXELS, open_picture

    limit = settings.images.max_pixels or MAX_PIXELS
    if images is not None and jsonl is not None:
        from vita_core.cli.answers import answer_folder

        counts = answer_folder(
            lambda: open_model(config, overrides),
            images,
            jsonl,
            question or settings.prompt.question,
            batch=batch,
            max_pixels=limit,
            system=system,
            max_new_tokens=max_new_tokens,
        )
        _finish(counts, jsonl, json)
        return
    if video is not None:
        from vita_core.video import read_frames

        pictures = [open_picture(frame, max_pixels=limit) for frame in read_frames(video, max_frames)]
        overrides = [*(overrides or ()), "images.tiles=null"]
    else:  # a picture that cannot be opened is told before any weight is read
        pictures = [open_picture(path, max_pixels=limit) for path in image or ()]
    model = open_model(config, overrides)

    def show(text: str) -> None:
        typer.echo(text, nl=False)

    answer = model.ask(pictures, question, system=system, max_new_tokens=max_new_tokens, on_text=None if json else show)
    if json:
        print_json(answer.to_dict())
    else:
        typer.echo()


def _finish(counts: dict[str, int], jsonl: Path, json: bool) -> None:
    """Tell what became of a folder's pictures; exit with 1 when any could not be answered about."""
    if json:
        print_json({"out": str(jsonl), **counts})
    else:
        typer.echo(
            f"{jsonl}: {counts['answered']} answered, {counts['skipped']} already there, {counts['errors']} with an error"
        )
    if counts["errors"]:
        raise typer.Exit(1)
