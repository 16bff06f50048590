"""``vita train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_core.cli.common import (
    ConfigArgument,
    DeviceOption,
    JsonOption,
    SetOption,
    overridden,
    print_json,
    print_table,
    resumable,
)

if TYPE_CHECKING:
    from vita_core.planning.resolution import Resolved

LicenceOption = Annotated[
    list[str] | None,
    typer.Option(
        help="The source and licence of each --data, for provenance.json. With stages, write `data.NAME.licence`."
    ),
]
StageOption = Annotated[str | None, typer.Option(metavar="NAME", help="The last stage to run, of `training.stages`.")]
StrictOption = Annotated[
    bool, typer.Option("--strict-data", help="Stop at the first sample that cannot be trained on.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Run two steps of each stage, print the memory and the time that the whole takes, and write nothing.",
    ),
]


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
    licence: LicenceOption = None,
    stage: StageOption = None,
    strict_data: StrictOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train the parts of a model that `training.stages` names, or without stages the projector and reductions that learn.

    Run the same command again to resume an interrupted training.
    """
    from vita_core.planning.resolution import resolve
    from vita_core.training.processes import first, together

    if dry_run:
        _refuse_processes()
    with together():
        changed = overridden(overrides, device)
        resolved = resolve(config, changed)
        resolved.language("vita train")
        if resolved.config.training.stages is None:
            _refuse_stages({"--stage": stage, "--strict-data": strict_data, "--dry-run": dry_run})
            scores, written = _flat(resolved, [Path(path) for path in data or ()], out, licence or ())
        else:
            from vita_core.training.sets import refuse_licences, replaced_paths

            refuse_licences(licence or ())
            resolved = resolve(config, [*changed, *replaced_paths(resolved.config.data, data or ())])
            if dry_run:
                _try(resolved, stage, strict=strict_data, json=json)
                return
            scores, written = _stages(resolved, out, stage, strict=strict_data)
    if first() and json:
        print_json({"out": str(out), **scores})
    elif first():
        typer.echo(f"wrote {out}/{written}: {scores}")
        typer.echo(f'next: vita run {out} --image PICTURE --question "{resolved.config.prompt.question}"')


def _refuse_stages(options: Mapping[str, object]) -> None:
    """Raise ConfigError for options, and for several processes, which need stages."""
    from vita_core.errors import ConfigError
    from vita_core.training.processes import count

    if count() > 1:
        raise ConfigError(
            f"training.stages: this config has none, and without stages one process trains, not {count()}. "
            "Try: `vita train CONFIG --data DATA --out DIR` without torchrun, or add `training.stages`"
        )
    for option, given in options.items():
        if given:
            raise ConfigError(f"{option}: this config has no `training.stages`. Try: leave it out")


def _refuse_processes() -> None:
    """Raise ConfigError if several processes train: each would print times of its own."""
    from vita_core.errors import ConfigError
    from vita_core.training.processes import count

    if count() > 1:
        raise ConfigError(
            f"--dry-run: it runs in one process, not {count()}. Try: `vita train CONFIG --dry-run --out DIR`"
        )


def _try(resolved: Resolved, stage: str | None, *, strict: bool, json: bool) -> None:
    """Run two steps of each stage, and print what they take."""
    from dataclasses import asdict

    from vita_core.training.trying import try_stages

    with resumable(kept=False):
        tried = try_stages(resolved, strict=strict, only=stage)
    total = sum(one.seconds for one in tried)
    if json:
        print_json({"stages": [asdict(one) for one in tried], "seconds": total})
        return
    rows = [
        (one.stage, f"{one.steps:,}", f"{one.step_seconds:.2f}", f"{one.peak_bytes / 1e9:.2f}", _duration(one.seconds))
        for one in tried
    ]
    columns = ["stage", "steps", "seconds a step", "peak memory so far (GB)", "time"]
    print_table(f"the whole training takes about {_duration(total)}", columns, rows)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _flat(resolved: Resolved, data: list[Path], out: Path, licences: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Train without stages. Return the scores, and the files that were written."""
    from vita_core.errors import ConfigError

    if not data:
        raise ConfigError("--data: no data set is given. Try: `vita train CONFIG --data DATA --out DIR`")
    from vita_core.training.train import train as run_training

    with resumable():
        scores = run_training(resolved, data, out, licences)
    reductions = "".join(f", {file.name}" for file in sorted(out.glob("reduce-*.safetensors")))
    return scores, f"projector.safetensors{reductions}, config.yaml and provenance.json"


def _stages(resolved: Resolved, out: Path, stage: str | None, *, strict: bool) -> tuple[dict[str, Any], str]:
    """Train in stages. Return the scores, and the files that were written."""
    from vita_core.training.running import run_stages

    with resumable():
        scores = run_stages(resolved, out, strict=strict, only=stage)
    return scores, "config.yaml, provenance.json and what was trained"
