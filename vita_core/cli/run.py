"""``vita run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.checkpoint import MaxTilesOption, TowerWeightsOption, ask, settle
from vita_core.cli.common import JsonOption, SetOption


def run(
    image: Annotated[list[Path], typer.Option("--image", metavar="PICTURE", help="A picture; give it again for more.")],
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="As elsewhere, or the directory of a VITA or LLaVA checkpoint."),
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Default: the config's prompt.question.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text, as the checkpoint was trained with.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to answer with.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="DIR", help="The same as DIR in the place of CONFIG.")
    ] = None,
    tower_weights: TowerWeightsOption = None,
    model_base: Annotated[
        str | None,
        typer.Option("--model-base", metavar="DIR", help="The language model under a projector's checkpoint."),
    ] = None,
    max_tiles: MaxTilesOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about one picture or more; the answer streams as it is made."""
    place = config or checkpoint
    if place is None or (config and checkpoint):
        raise typer.BadParameter("give either CONFIG or --checkpoint DIR")
    settled = settle(
        place, tower_weights=tower_weights, model_base=model_base, max_tiles=max_tiles, overrides=overrides or ()
    )
    ask(settled, image, question, system=system, max_new_tokens=max_new_tokens, json=json)
