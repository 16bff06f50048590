"""``vita train``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_core.cli.common import ConfigArgument, DeviceOption, JsonOption, SetOption, overridden, print_json

if TYPE_CHECKING:
    from vita_core.planning.resolution import Resolved


def train(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(help="The directory to write. vita run opens it.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="A folder of pictures with .txt files, a JSONL of {image, caption}, a LLaVA JSON, or another data set whose "
            "samples are each one picture in a file. Repeat it for more data. With stages, NAME=PATH replaces the path of a "
            "data set of the config.",
        ),
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option(help="The source and licence of each --data, for provenance.json.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="The last stage to run, of `training.stages`.")
    ] = None,
    strict_data: Annotated[
        bool, typer.Option("--strict-data", help="Stop at the first sample that cannot be trained on.")
    ] = False,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train the parts of a model that `training.stages` names, or without stages the projector and reductions that learn.

    Run the same command again to resume an interrupted training.
    """
    from vita_core.planning.resolution import resolve
    from vita_core.training.processes import first, together

    with together():
        changed = overridden(overrides, device)
        resolved = resolve(config, changed)
        resolved.language("vita train")
        if resolved.config.training.stages is None:
            _refuse_stages(stage, strict_data=strict_data)
            scores, written = _flat(resolved, [Path(path) for path in data or ()], out, licence or ())
        else:
            from vita_core.training.sets import replaced_paths

            resolved = resolve(config, [*changed, *replaced_paths(resolved.config.data, data or ())])
            scores, written = _stages(resolved, out, stage, strict=strict_data)
    if first() and json:
        print_json({"out": str(out), **scores})
    elif first():
        typer.echo(f"wrote {out}/{written}: {scores}")
        typer.echo(f'next: vita run {out} --image PICTURE --question "{resolved.config.prompt.question}"')


def _refuse_stages(stage: str | None, *, strict_data: bool) -> None:
    """Raise ConfigError for options, and for several processes, which need stages."""
    from vita_core.errors import ConfigError
    from vita_core.training.processes import count

    if count() > 1:
        raise ConfigError(
            f"training.stages: this config has none, and without stages one process trains, not {count()}. "
            "Try: `vita train CONFIG --data DATA --out DIR` without torchrun, or add `training.stages`"
        )
    option = "--stage" if stage is not None else "--strict-data" if strict_data else None
    if option is not None:
        raise ConfigError(f"{option}: this config has no `training.stages`. Try: leave it out")


def _flat(resolved: Resolved, data: list[Path], out: Path, licences: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Train without stages. Return the scores, and the files that were written."""
    from vita_core.errors import ConfigError
    from vita_core.training.data import read_samples

    if not data:
        raise ConfigError("--data: no data set is given. Try: `vita train CONFIG --data DATA --out DIR`")
    for path in data:  # report mistakes in the data before a weight is read
        read_samples(path)
    from vita_core.training.train import train as run_training

    with _quiet():
        scores = run_training(resolved, data, out, licences)
    reductions = "".join(f", {file.name}" for file in sorted(out.glob("reduce-*.safetensors")))
    return scores, f"projector.safetensors{reductions}, config.yaml and provenance.json"


def _stages(resolved: Resolved, out: Path, stage: str | None, *, strict: bool) -> tuple[dict[str, Any], str]:
    """Train in stages. Return the scores, and the files that were written."""
    from vita_core.training.running import run_stages

    with _quiet():
        scores = run_stages(resolved, out, strict=strict, only=stage)
    return scores, "config.yaml, provenance.json and what was trained"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars away, and what it prints out of stdout."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):
        yield
