"""``vita run``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.asking import (
    MaxTilesOption,
    MaxTokensOption,
    ModelBaseOption,
    SystemOption,
    TowerWeightsOption,
    ask,
)
from vita_core.cli.common import CONFIG_HELP, DeviceOption, JsonOption, SetOption, overridden, print_json
from vita_core.cli.exits import FAILURES
from vita_core.cli.videos import MaxFramesOption
from vita_core.models.videos import UNTILED

ConfigArgument = Annotated[str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]
CheckpointOption = Annotated[
    str | None, typer.Option("--checkpoint", metavar="DIR", help="The directory of a checkpoint, the same as CONFIG.")
]
ImageOption = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="PICTURE", help="A picture to ask about. Repeat the option for more pictures."),
]
VideoOption = Annotated[
    Path | None,
    typer.Option(help="A video to ask about. A tower of pictures gets one frame per second, without tiles."),
]
ImagesOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Ask about every picture in this folder. Needs --jsonl.")
]
JsonlOption = Annotated[
    Path | None, typer.Option(metavar="OUT", help="The file for the answers to --images. Run again to resume.")
]
BatchOption = Annotated[
    int, typer.Option(min=1, help="How many pictures of --images are processed at once. Fewer need less memory.")
]
QuestionOption = Annotated[
    str | None, typer.Option("--question", "-q", help="The question. Default: prompt.question of the config.")
]


def run(
    config: ConfigArgument = None,
    image: ImageOption = None,
    video: VideoOption = None,
    max_frames: MaxFramesOption = None,
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
    """Answer a question about pictures, about a video, or about each picture of a folder.

    An answer is printed while it is generated.
    """
    from vita_core.errors import ConfigError
    from vita_core.planning.resolution import resolve
    from vita_core.planning.videos import refuse_stills

    place = config or checkpoint
    if place is None or (config and checkpoint):
        given = "neither of them is given" if place is None else "both are given"
        raise typer.BadParameter(f"CONFIG or --checkpoint: {given}. Try: `vita run CONFIG --image PICTURE`")
    if wrong := _wrong_pictures({"--image": image, "--video": video, "--images": images}, jsonl):
        example = "`vita run CONFIG --image PICTURE`, or `vita run CONFIG --images FOLDER --jsonl OUT`"
        raise ConfigError(f"{wrong}. Try: {example}")
    overrides = [*overridden(overrides, device), *(UNTILED if video else ())]
    resolved = resolve(place, overrides, tower_weights=tower_weights, model_base=model_base, max_tiles=max_tiles)
    resolved.language("vita run")
    if images is None or jsonl is None:
        ask(
            resolved, image or [], question, video=video, max_frames=max_frames, system=system,
            max_new_tokens=max_new_tokens, json=json,
        )  # fmt: skip
        return
    refuse_stills(resolved.tower, "--images: it asks about still pictures")
    from vita_core.cli.answers import answer_folder

    counts = answer_folder(resolved, images, jsonl, question, batch=batch, system=system, max_new_tokens=max_new_tokens)
    _finish(counts, jsonl, json)


def _wrong_pictures(options: Mapping[str, object], jsonl: Path | None) -> str | None:
    """Return what is wrong with the options that name pictures, or None."""
    given = [name for name, value in options.items() if value]
    if not given:
        return "no picture is given"
    if len(given) > 1:
        return f"{' and '.join(given)} exclude each other"
    if given == ["--images"] and jsonl is None:
        return "--images needs --jsonl"
    if given != ["--images"] and jsonl is not None:
        return f"--jsonl: it only works with --images, not with {given[0]}"
    return None


def _finish(counts: dict[str, int], jsonl: Path, json: bool) -> None:
    """Print the numbers of answers and errors. Exit with 3 if there was an error."""
    if json:
        print_json({"out": str(jsonl), **counts})
    else:
        typer.echo(
            f"{jsonl}: {counts['answered']} answered, {counts['skipped']} skipped, {counts['errors']} with an error"
        )
    if counts["errors"]:
        raise typer.Exit(FAILURES)
