"""``vita demo``: ask a question with the flags of VITA's own demo script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.asking import MaxTilesOption, SystemOption, TowerWeightsOption, ask
from vita_core.cli.common import JsonOption
from vita_core.cli.videos import MaxFramesOption
from vita_core.models.videos import UNTILED

EXAMPLE = "`vita demo --model_path DIR --image_path PICTURE --question TEXT`"
ModelPathOption = Annotated[
    str, typer.Option("--model_path", metavar="DIR", help="The directory of a VITA or LLaVA checkpoint.")
]
QuestionOption = Annotated[str, typer.Option("--question", help="The question.")]
ImagePathOption = Annotated[
    Path | None, typer.Option("--image_path", metavar="PICTURE", help="The picture to ask about.")
]
VideoPathOption = Annotated[Path | None, typer.Option("--video_path", metavar="VIDEO", help="The video to ask about.")]
AudioPathOption = Annotated[
    Path | None, typer.Option("--audio_path", metavar="AUDIO", help="Not supported: this project has no audio.")
]
ModelBaseOption = Annotated[
    str | None,
    typer.Option(
        "--model_base",
        metavar="DIR",
        help="The language model that DIR was trained on, if DIR has only a projector or adapter.",
    ),
]
ModelTypeOption = Annotated[
    str | None,
    typer.Option("--model_type", help="Not needed: the checkpoint's config.json states it. A wrong type is an error."),
]
ConvModeOption = Annotated[
    str | None, typer.Option("--conv_mode", help="The prompt format. Default: that of the checkpoint.")
]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="The largest number of tokens of an answer.")]


def demo(
    model_path: ModelPathOption,
    question: QuestionOption = "",
    image_path: ImagePathOption = None,
    video_path: VideoPathOption = None,
    audio_path: AudioPathOption = None,
    model_base: ModelBaseOption = None,
    model_type: ModelTypeOption = None,
    conv_mode: ConvModeOption = None,
    system: SystemOption = None,
    max_new_tokens: MaxTokensOption = 1024,
    max_frames: MaxFramesOption = None,
    tower_weights: TowerWeightsOption = None,
    max_tiles: MaxTilesOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about a picture or a video, with the flags of VITA's demo script."""
    from vita_core.errors import ConfigError
    from vita_core.layouts.known import read_config
    from vita_core.layouts.vita import check_demo_type
    from vita_core.planning.resolution import resolve

    if audio_path is not None:
        raise ConfigError(
            f"--audio_path: audio is not supported: {audio_path}. Try: write the question with --question"
        )
    if not question:
        raise ConfigError(f"--question is missing. Try: {EXAMPLE}")
    if (image_path is None) == (video_path is None):
        wrong = "neither --image_path nor --video_path is given" if image_path is None else "both are given"
        raise ConfigError(f"one of --image_path and --video_path is needed: {wrong}. Try: {EXAMPLE}")
    if model_type is not None:
        check_demo_type(model_type, read_config(model_path))
    given = [*([f"prompt.template={conv_mode}"] if conv_mode else []), *(UNTILED if video_path is not None else ())]
    resolved = resolve(model_path, given, tower_weights=tower_weights, model_base=model_base, max_tiles=max_tiles)
    ask(
        resolved, [image_path] if image_path else [], question, video=video_path, max_frames=max_frames, system=system,
        max_new_tokens=max_new_tokens, json=json,
    )  # fmt: skip
