"""``vita eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import ConfigArgument, DeviceOption, JsonOption, SetOption, open_model, overridden, print_json


def evaluate(
    config: ConfigArgument,
    data: Annotated[
        Path,
        typer.Option(help="Pictures with captions, as for vita train. A JSONL row may list more accepted `names`."),
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many pictures, the first ones.")] = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Ask about every picture, and print how many answers name what its caption names.

    For comparison, the same answers are also scored with the captions shuffled among the pictures.
    """
    from vita_core.planning.resolution import resolve
    from vita_core.planning.videos import refuse_stills
    from vita_core.training.data import read_samples

    resolved = resolve(config, overridden(overrides, device))
    resolved.language("vita eval")
    refuse_stills(resolved.tower, "vita eval: it takes still pictures")
    samples = read_samples(data)[:limit]
    model = open_model(resolved)
    from vita_core.training.evaluate import evaluate as score

    result = score(model, samples)
    if json:
        print_json(result)
        return
    for row in result["answers"]:
        typer.echo(f"{'named ' if row['named'] else 'missed'}  {row['caption']:<28} {row['answer']}")
    typer.echo(
        f"{result['n']} pictures: {result['named']:.1%} named; {result['shuffled']:.1%} with the captions shuffled"
    )
