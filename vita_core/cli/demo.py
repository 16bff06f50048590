"""``vita demo``: the command that VITA's own demo script is run by, with the same flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.asking import UNTILED, MaxFramesOption, MaxTilesOption, SystemOption, TowerWeightsOption, ask
from vita_core.cli.common import JsonOption

ModelPathOption = Annotated[str, typer.Option("--model_path", metavar="DIR", help="The checkpoint's directory.")]
QuestionOption = Annotated[str, typer.Option("--question", help="The question.")]
ImagePathOption = Annotated[
    Path | None, typer.Option("--image_path", metavar="PICTURE", help="The picture asked about.")
]
VideoPathOption = Annotated[
    Path | None, typer.Option("--video_path", metavar="VIDEO", help="The video asked about, in frames.")
]
AudioPathOption = Annotated[
    Path | None, typer.Option("--audio_path", metavar="AUDIO", help="Refused: this is the vision half.")
]
ModelBaseOption = Annotated[
    str | None, typer.Option("--model_base", metavar="DIR", help="The base of a projector or LoRA adapter.")
]
ModelTypeOption = Annotated[
    str | None, typer.Option("--model_type", help="Not needed: the checkpoint's config.json says it.")
]
ConvModeOption = Annotated[
    str | None, typer.Option("--conv_mode", help="Prompt format. Default: the checkpoint's family's.")
]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Most tokens to answer with.")]


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
    max_frames: MaxFramesOption = 16,
    tower_weights: TowerWeightsOption = None,
    max_tiles: MaxTilesOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about a picture or a video as VITA's demo does, with its flags."""
    from vita_core.errors import ConfigError
    from vita_core.layouts.known import read_config
    from vita_core.layouts.vita import check_demo_type
    from vita_core.planning.resolution import resolve

    if audio_path is not None:
        raise ConfigError(f"--audio_path {audio_path}: this is the vision half of VITA. Try: ask with --question")
    if not question:
        raise ConfigError(
            "--question is missing. Try: `vita demo --model_path DIR --image_path PICTURE --question TEXT`"
        )
    if (image_path is None) == (video_path is None):
        raise ConfigError("give one of --image_path PICTURE and --video_path VIDEO. Try: leave the other out")
    if model_type is not None:
        check_demo_type(model_type, read_config(model_path))
    given = [*([f"prompt.template={conv_mode}"] if conv_mode else []), *(UNTILED if video_path is not None else ())]
    resolved = resolve(model_path, given, tower_weights=tower_weights, model_base=model_base, max_tiles=max_tiles)
    ask(
        resolved, [image_path] if image_path else [], question, video=video_path, max_frames=max_frames, system=system,
        max_new_tokens=max_new_tokens, json=json,
    )  # fmt: skip
