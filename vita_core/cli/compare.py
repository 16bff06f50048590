"""``vita compare`` and ``vita sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_core.cli.common import (
    CONFIG_HELP,
    ConfigArgument,
    DeviceOption,
    JsonOption,
    SetOption,
    overridden,
    print_json,
    print_table,
    resumable,
)
from vita_core.cli.exits import FAILURES

if TYPE_CHECKING:
    from vita_core.comparing.planned import Asked, Options

DataOption = Annotated[
    Path,
    typer.Option(
        metavar="DATA",
        help="Pictures with captions, as for vita train. They are divided into training, validation and test.",
    ),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="The directory to write. The same command goes on where it was stopped.")
]
SeedsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Train every config with the seeds 0 to N - 1.")]
TokensOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Pool the tokens of a picture to so many. They never become more."),
]
StepsOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Train so many steps, in each stage.")]
TuneOption = Annotated[
    str | None,
    typer.Option(
        metavar="learning_rate=A,B,...",
        help="Try these learning rates with the first seed of each config, and take the best one by its validation loss.",
    ),
]
UnequalOption = Annotated[
    bool, typer.Option("--unequal", help="Compare configs that differ in more than the tower too, and mark them.")
]
BenchmarksOption = Annotated[
    str | None,
    typer.Option(
        "--lmms-eval",
        metavar="TASKS",
        help="Score the trained models by these tasks of lmms-eval too: names or YAML files, with commas between them. "
        "--dry-run does not count their time.",
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Run two steps of each config, print how long the whole takes, and train nothing."),
]


def compare(
    configs: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG...", help=f"Two or more of: {CONFIG_HELP[0].lower()}{CONFIG_HELP[1:]}"),
    ],
    data: DataOption,
    out: OutOption,
    seeds: SeedsOption = 3,
    tokens: TokensOption = None,
    steps: StepsOption = None,
    tune: TuneOption = None,
    unequal: UnequalOption = False,
    lmms_eval: BenchmarksOption = None,
    dry_run: DryRunOption = False,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train configs on the same pictures in the same order, score them on other pictures, and say which one to take.

    Writes comparison.html, comparison.md and comparison.json to DIR. Exits with 3 if a config failed.
    """
    from vita_core.comparing.planned import named

    asked = named(configs, overridden(overrides, device))
    _run(asked, data, out, _options(seeds, tokens, steps, tune, unequal, lmms_eval), dry_run=dry_run, json=json)


def sweep(
    config: ConfigArgument,
    over: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="A value of a key. Repeat it for more values; several keys make a grid."
        ),
    ],
    data: DataOption,
    out: OutOption,
    seeds: SeedsOption = 3,
    tokens: TokensOption = None,
    steps: StepsOption = None,
    tune: TuneOption = None,
    unequal: UnequalOption = False,
    lmms_eval: BenchmarksOption = None,
    dry_run: DryRunOption = False,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare the values of a key of one config, as vita compare does for several configs."""
    from vita_core.comparing.sweeping import swept

    asked = swept(config, over, overridden(overrides, device))
    _run(asked, data, out, _options(seeds, tokens, steps, tune, unequal, lmms_eval), dry_run=dry_run, json=json)


def _options(
    seeds: int, tokens: int | None, steps: int | None, tune: str | None, unequal: bool, lmms_eval: str | None
) -> Options:
    from vita_core.comparing.planned import Options
    from vita_core.errors import ConfigError

    tasks = [] if lmms_eval is None else [task.strip() for task in lmms_eval.split(",")]
    if not all(tasks):
        raise ConfigError(
            f"--lmms-eval: a task is empty: {lmms_eval!r}. Try: names with commas between them, such as mme,pope"
        )
    return Options(tuple(range(seeds)), tokens, steps, _rates(tune), unequal, tuple(tasks))


def _rates(tune: str | None) -> tuple[float, ...]:
    """Return the learning rates of --tune. Raises ConfigError."""
    from contextlib import suppress

    from vita_core.errors import ConfigError

    if tune is None:
        return ()
    key, _, values = tune.partition("=")
    rates: list[float] = []
    with suppress(ValueError):
        rates = [float(value) for value in values.split(",")]
    if key != "learning_rate" or len({*rates}) != len(rates) or not rates or not all(0 < rate < 1e6 for rate in rates):
        raise ConfigError(f"--tune: not different learning rates: {tune!r}. Try: `--tune learning_rate=3e-4,1e-3,3e-3`")
    return tuple(rates)


def _run(asked: Sequence[Asked], data: Path, out: Path, options: Options, *, dry_run: bool, json: bool) -> None:
    """Compare, and print the verdict; or only how long that would take."""
    if dry_run:
        _estimate(asked, data, out, options, json=json)
        return
    from vita_core.comparing.comparison import compare as run

    with resumable():
        found = run(asked, data, out, options)
    failed = [one["name"] for one in found["configs"] if one["failed"] is not None]
    if json:
        print_json(found)
    else:
        typer.echo(found["verdict"])
        for note in found["notes"]:
            typer.echo(f"- {note}")
        _print(found)
        typer.echo(f"wrote {out}/comparison.html, comparison.md, comparison.json and timings.json")
    if failed:
        raise typer.Exit(FAILURES)


def _print(found: dict[str, Any]) -> None:
    from vita_core.comparing.verdict import percent

    rows = [
        (one["name"], one["tokens"], f"failed: {one['failed']}", "", "")
        if one["failed"] is not None
        else (
            one["name"],
            one["tokens"],
            "{mean:.3f} ({low:.3f} to {high:.3f})".format(**one["loss"]),
            percent(one["named"]),
            percent(one["shuffled"]),
        )
        for one in found["configs"]
    ]
    print_table(
        "95% intervals in brackets" + (", NOT ON EQUAL TERMS" if found["unequal"] else ""),
        ["config", "tokens", "held-out loss", "pictures named", "with captions shuffled"],
        rows,
    )


def _estimate(asked: Sequence[Asked], data: Path, out: Path, options: Options, *, json: bool) -> None:
    from dataclasses import asdict

    from vita_core.comparing.estimating import estimated

    with resumable():
        found = estimated(asked, data, out, options)
    total = sum(one.seconds for one in found)
    if json:
        print_json({"configs": [asdict(one) for one in found], "seconds": total})
        return
    rows = [
        (
            one.name,
            one.runs,
            f"{one.encode_seconds:.2f}",
            f"{one.step_seconds:.2f}",
            f"{one.score_seconds:.2f}",
            f"{one.seconds / 3600:.2f}",
        )
        for one in found
    ]
    columns = ["config", "runs", "s to encode a picture", "s a step", "s to score a picture", "hours"]
    print_table(f"the whole comparison takes about {total / 3600:.2f} hours", columns, rows)
