"""``vita run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.asking import (
    UNTILED,
    MaxFramesOption,
    MaxTilesOption,
    MaxTokensOption,
    ModelBaseOption,
    SystemOption,
    TowerWeightsOption,
    ask,
)
from vita_core.cli.common import CONFIG_HELP, DeviceOption, JsonOption, SetOption, overridden, print_json

ConfigArgument = Annotated[str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]
CheckpointOption = Annotated[
    str | None, typer.Option("--checkpoint", metavar="DIR", help="The same as DIR in the place of CONFIG.")
]
ImageOption = Annotated[
    list[Path] | None, typer.Option("--image", metavar="PICTURE", help="A picture; give it again for more.")
]
VideoOption = Annotated[Path | None, typer.Option(help="A video: one frame a second, none of them tiled.")]
ImagesOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Ask about every picture below it; needs --jsonl.")
]
JsonlOption = Annotated[
    Path | None, typer.Option(metavar="OUT", help="Where --images writes a row each. Call again to resume.")
]
BatchOption = Annotated[
    int, typer.Option(min=1, help="How many pictures of --images are asked about together; fewer need less memory.")
]
QuestionOption = Annotated[str | None, typer.Option("--question", "-q", help="Default: the config's prompt.question.")]


def run(
    config: ConfigArgument = None,
    image: ImageOption = None,
    video: VideoOption = None,
    max_frames: MaxFramesOption = 16,
    images: ImagesOption = None,
    jsonl: JsonlOption = None,
    batch: BatchOption = 16,
    question: QuestionOption = None,
    system: SystemOption = None,
    max_new_tokens: MaxTokensOption = None,
    checkpoint: CheckpointOption = None,
    tower_weights: TowerWeightsOption = None,
    model_base: ModelBaseOption = None,
    max_tiles: MaxTilesOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about one picture or more, a video, or each picture of a folder; an answer streams as it is made."""
    from vita_core.errors import ConfigError
    from vita_core.planning.resolution import resolve

    place = config or checkpoint
    if place is None or (config and checkpoint):
        raise typer.BadParameter("give either CONFIG or --checkpoint DIR")
    if sum(bool(given) for given in (image, video, images)) != 1 or (images is None) != (jsonl is None):
        raise ConfigError(
            "the pictures to ask about are missing, or given in two ways. Try: one of --image, --video and --images; --images "
            "goes with --jsonl, the others without"
        )
    given = [*overridden(overrides, device), *(UNTILED if video else ())]
    resolved = resolve(place, given, tower_weights=tower_weights, model_base=model_base, max_tiles=max_tiles)
    resolved.language("`vita run`")
    if images is None or jsonl is None:
        ask(
            resolved, image or [], question, video=video, max_frames=max_frames, system=system,
            max_new_tokens=max_new_tokens, json=json,
        )  # fmt: skip
        return
    from vita_core.cli.answers import answer_folder

    counts = answer_folder(resolved, images, jsonl, question, batch=batch, system=system, max_new_tokens=max_new_tokens)
    _finish(counts, jsonl, json)


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
