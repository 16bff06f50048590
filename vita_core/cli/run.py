"""``vita run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import ConfigArgument, JsonOption, SetOption, open_model, print_json


def run(
    config: ConfigArgument,
    image: Annotated[list[Path], typer.Option("--image", metavar="PICTURE", help="A picture; give it again for more.")],
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Default: the config's prompt.question.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text, as the checkpoint was trained with.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to answer with.")] = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about one picture or more; the answer streams as it is made."""
    from vita_core.config import load_config
    from vita_core.images import MAX_PIXELS, open_picture

    limit = load_config(config, overrides or ()).images.max_pixels or MAX_PIXELS
    for path in image:  # a picture that cannot be opened is told before any weight is read
        open_picture(path, max_pixels=limit)
    model = open_model(config, overrides)

    def show(text: str) -> None:
        typer.echo(text, nl=False)

    answer = model.ask(image, question, system=system, max_new_tokens=max_new_tokens, on_text=None if json else show)
    if json:
        print_json(answer.to_dict())
    else:
        typer.echo()
