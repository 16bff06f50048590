"""``vita demo``: the command that VITA's own demo script is run by, with the same flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.checkpoint import UNTILED, MaxTilesOption, TowerWeightsOption, ask, settle
from vita_core.cli.common import JsonOption


def demo(  # long by its options alone: typer reads them from the signature
    model_path: Annotated[str, typer.Option("--model_path", metavar="DIR", help="The checkpoint's directory.")],
    question: Annotated[str, typer.Option("--question", help="The question.")] = "",
    image_path: Annotated[
        Path | None, typer.Option("--image_path", metavar="PICTURE", help="The picture asked about.")
    ] = None,
    video_path: Annotated[
        Path | None, typer.Option("--video_path", metavar="VIDEO", help="The video asked about, in frames.")
    ] = None,
    audio_path: Annotated[
        Path | None, typer.Option("--audio_path", metavar="AUDIO", help="Refused: this is the vision half.")
    ] = None,
    model_base: Annotated[
        str | None,
        typer.Option("--model_base", metavar="DIR", help="The base of a projector or LoRA adapter."),
    ] = None,
    model_type: Annotated[
        str | None, typer.Option("--model_type", help="Not needed: the checkpoint's config.json says it.")
    ] = None,
    conv_mode: Annotated[
        str | None, typer.Option("--conv_mode", help="Prompt format. Default: the checkpoint's family's.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text, as the checkpoint was trained with.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to answer with.")] = 1024,
    max_frames: Annotated[int, typer.Option(min=1, help="Most frames of a video, one a second.")] = 16,
    tower_weights: TowerWeightsOption = None,
    max_tiles: MaxTilesOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question about a picture or a video as VITA's demo does, with its flags."""
    from vita_core.errors import ConfigError
    from vita_core.layouts.known import read_config
    from vita_core.layouts.vita import check_demo_type

    if audio_path is not None:
        raise ConfigError("--audio_path: this is the vision half of VITA; ask with --question instead")
    if not question:
        raise ConfigError("--question is missing: what is to be asked about the picture?")
    if (image_path is None) == (video_path is None):
        raise ConfigError("give one of --image_path PICTURE and --video_path VIDEO")
    if model_type is not None:
        check_demo_type(model_type, read_config(model_path))
    overrides = [f"prompt.template={conv_mode}"] if conv_mode else []
    if video_path is not None:
        overrides += UNTILED
    settled = settle(
        model_path, tower_weights=tower_weights, model_base=model_base, max_tiles=max_tiles, overrides=overrides
    )
    ask(
        settled, [image_path] if image_path else [], question, video=video_path, max_frames=max_frames, system=system,
        max_new_tokens=max_new_tokens, json=json,
    )  # fmt: skip
