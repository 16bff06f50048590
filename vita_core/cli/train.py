"""``vita train``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import ConfigArgument, DeviceOption, JsonOption, SetOption, overridden, print_json


def train(
    config: ConfigArgument,
    data: Annotated[
        list[Path],
        typer.Option(
            help="A folder of pictures with .txt files, a JSONL of {image, caption}, a LLaVA JSON, or another data set whose "
            "samples are each one picture in a file. Repeat it for more data."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The directory to write. vita run opens it.")],
    licence: Annotated[
        list[str] | None, typer.Option(help="The source and licence of each --data, for provenance.json.")
    ] = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train the projector, and reductions that learn, on pictures with captions. Encoder and language model stay frozen.

    Run the same command again to resume an interrupted training.
    """
    from vita_core.planning.resolution import resolve
    from vita_core.training.data import read_samples

    resolved = resolve(config, overridden(overrides, device))
    resolved.language("vita train")
    for path in data:  # report mistakes in the data before a weight is read
        read_samples(path)
    from transformers.utils import logging

    from vita_core.training.train import train as run_training

    logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):  # transformers prints its losses on stdout
        scores = run_training(resolved, data, out, licence or ())
    if json:
        print_json({"out": str(out), **scores})
    else:
        reductions = "".join(f", {file.name}" for file in sorted(out.glob("reduce-*.safetensors")))
        typer.echo(f"wrote {out}/projector.safetensors{reductions}, config.yaml and provenance.json: {scores}")
        typer.echo(f'next: vita run {out} --image PICTURE --question "{resolved.config.prompt.question}"')
