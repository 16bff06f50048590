"""``vita run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.checkpoint import UNTILED, MaxTilesOption, TowerWeightsOption, ask, settle
from vita_core.cli.common import JsonOption, SetOption, print_json


def run(  # long by its options alone: typer reads them from the signature
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="As elsewhere, or the directory of a VITA or LLaVA checkpoint."),
    ] = None,
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
    batch: Annotated[
        int, typer.Option(min=1, help="How many pictures of --images are asked about together; fewer need less memory.")
    ] = 16,
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
        typer.Option("--model-base", metavar="DIR", help="The base of a projector or LoRA adapter."),
    ] = None,
    max_tiles: MaxTilesOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about one picture or more, a video, or each picture of a folder; an answer streams as it is made."""
    from vita_core.errors import ConfigError

    place = config or checkpoint
    if place is None or (config and checkpoint):
        raise typer.BadParameter("give either CONFIG or --checkpoint DIR")
    if sum(bool(given) for given in (image, video, images)) != 1 or (images is None) != (jsonl is None):
        raise ConfigError(
            "give one of --image, --video and --images; --images goes with --jsonl OUT, the others without"
        )
    settled = settle(
        place,
        tower_weights=tower_weights,
        model_base=model_base,
        max_tiles=max_tiles,
        overrides=[*(overrides or ()), *(UNTILED if video else ())],
    )
    if images is not None and jsonl is not None:
        from vita_core.cli.answers import answer_folder

        counts = answer_folder(
            settled, images, jsonl, question, batch=batch, system=system, max_new_tokens=max_new_tokens
        )
        _finish(counts, jsonl, json)
        return
    ask(
        settled, image or [], question, video=video, max_frames=max_frames, system=system,
        max_new_tokens=max_new_tokens, json=json,
    )  # fmt: skip


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
