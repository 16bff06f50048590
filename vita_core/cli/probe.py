"""``vita probe``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_core.cli.common import (
    CONFIG_HELP,
    DeviceOption,
    JsonOption,
    SetOption,
    overridden,
    print_json,
    print_table,
    quiet_transformers,
)

if TYPE_CHECKING:
    from vita_core.planning.resolution import Resolved

BLOCKS = "▏▎▍▌▋▊▉█"
BAR = 20
"""The most characters of a bar."""
ENOUGH = 96
"""The pictures in a test whose 95% interval is 10 points to a side, at an accuracy of one half: 1.96^2 x 0.25 / 0.1^2."""


def probe(
    config: Annotated[list[str], typer.Argument(metavar="CONFIG...", help=f"{CONFIG_HELP} Several are compared.")],
    data: Annotated[
        Path, typer.Option(help="Pictures with labels: folders of pictures, or a data set as for vita train.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Where a label comes from: label (of the row), folder, or caption (its name, as for vita eval)."
        ),
    ] = None,
    every_layer: Annotated[
        bool, typer.Option("--every-layer", help="Score every layer, and choose one on the validation pictures.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many pictures, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Decides how the pictures are divided and drawn.")] = 0,
    device: DeviceOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Score the features of vision towers on labelled pictures. No language model is needed.

    The pictures are divided into training, validation and test, near-duplicates together. Accuracies are those of the test
    pictures, with 95% intervals. Features are kept in the cache directory.
    """
    resolved = _resolved(config, labels, overridden(overrides, device))
    quiet_transformers()
    from vita_core.probing.probe import probe as run

    found = run(resolved, data, labels=labels, every_layer=every_layer, seed=seed, limit=limit)
    if json:
        print_json(found)
        return
    _print_data(found["data"])
    _print_scores(found)
    for told in found["configs"] if every_layer else ():
        _print_layers(told)
    if len(resolved) > 1:
        _print_pairs(found)
    for name, took in found["timings"].items():
        _print_time(name, took)


def _resolved(config: Sequence[str], labels: str | None, overrides: Sequence[str]) -> dict[str, Resolved]:
    """Return the resolved configs by name. Raises ConfigError for two of one name, and for an unknown --labels."""
    from vita_core.comparing.planned import named
    from vita_core.errors import ConfigError
    from vita_core.planning.resolution import resolve

    if labels not in (None, "label", "folder", "caption"):
        raise ConfigError(f"--labels: unknown: {labels!r}. Try: label, folder or caption")
    return {one.name: resolve(one.place, one.overrides, tower_only=True) for one in named(config, overrides)}


def _print_data(data: dict[str, Any]) -> None:
    typer.echo(
        f"{data['pictures']} pictures of {data['labels']} labels ({data['origin']}): {data['train']} for training, "
        f"{data['validation']} for validation, {data['test']} for the test"
    )
    if data["pictures"] > data["groups"]:
        typer.echo(f"{data['groups']} of them are different; near-duplicates are in the same part")
    if left_out := data["left_out"]["pictures"]:
        typer.echo(
            f"left out: {left_out} pictures, whose labels have too few ({data['left_out']['labels']} of the labels)"
        )
    for reason, count in data["rejected"].items():
        typer.echo(f"rejected: {count} with {reason!r}; --json lists them")


def _print_scores(found: dict[str, Any]) -> None:
    rows = []
    for told in found["configs"]:
        scores = told.get("chosen", told["configured"])
        retrieval = scores["retrieval"]
        rows.append(
            [
                told["config"],
                told["tower"],
                _listed(scores["layers"]),
                f"{scores['tokens']} x {scores['hidden_size']}",
                _accuracy(scores["knn"]),
                _accuracy(scores["linear"]),
                f"{scores['rank_me']:.1f}",
                f"{scores['sinks']:.2%}",
                "no grid" if retrieval is None else f"{retrieval['map']:.3f}",
            ]
        )
    columns = ["config", "tower", "layer", "tokens", "20 nearest", "linear", "RankMe", "sinks", "patch mAP"]
    common = found["data"]["most_frequent"]
    print_table(
        f"On the test pictures (RankMe, sinks and patch mAP: on all); the most frequent label alone gives {common:.1%}",
        columns,
        rows,
    )
    if found["data"]["test"] < ENOUGH:
        enough = 10 * round(found["data"]["pictures"] * ENOUGH / found["data"]["test"] / 10)
        typer.echo(f"The test is small; about {enough} pictures would make the intervals ±10 points or narrower")


def _print_layers(told: dict[str, Any]) -> None:
    """Draw the curve of a tower's layers."""
    best = told["chosen"]["layers"]
    rows = []
    for scores in told["every_layer"]:
        share, mark = scores["linear"]["validation"], " <- chosen" if scores["layers"] == best else ""
        retrieval = scores["retrieval"]
        rows.append(
            [
                _listed(scores["layers"]) + (" (config)" if scores["layers"] == told["configured"]["layers"] else ""),
                f"{scores['knn']['validation']:.1%}",
                f"{share:.1%}",
                f"{scores['rank_me']:.1f}",
                f"{scores['sinks']:.2%}",
                "no grid" if retrieval is None else f"{retrieval['map']:.3f}",
                _bar(share) + mark,
            ]
        )
    columns = ["layer", "20 nearest", "linear", "RankMe", "sinks", "patch mAP", "linear, drawn"]
    print_table(
        f"{told['config']}: every layer on the validation pictures (RankMe, sinks and patch mAP: on all)", columns, rows
    )
    for layer, why in told["not_probed"].items():
        typer.echo(f"layer {layer} is not probed: {why}")
    own, chosen = told["configured"], told["chosen"]
    typer.echo(
        f"`tower.select_layer: {best[0]}` is best on the validation pictures: {_accuracy(chosen['linear'])} on the test"
    )
    if own["layers"] != best:
        typer.echo(f"with the config's own layer, {_listed(own['layers'])}: {_accuracy(own['linear'])} on the test")


def _print_pairs(found: dict[str, Any]) -> None:
    names = {"knn": "20 nearest", "linear": "linear"}
    rows = [
        [
            f"{pair['a']} - {pair['b']}",
            names[pair["measure"]],
            f"{100 * pair['difference']:+.1f} [{100 * pair['low']:+.1f}, {100 * pair['high']:+.1f}] points",
        ]
        for pair in found["pairs"]
    ]
    print_table("Differences on the same test pictures", ["configs", "measure", "difference"], rows)
    cka = found["cka"]
    lines = [
        [name, *(f"{value:.3f}" for value in row)] for name, row in zip(cka["configs"], cka["matrix"], strict=True)
    ]
    print_table("Linear CKA of the mean features", ["", *cka["configs"]], lines)


def _print_time(name: str, took: dict[str, Any]) -> None:
    first = f"{took['encoded']} pictures encoded in {took['encoding']:.2f} s; " if took["encoded"] else ""
    typer.echo(f"{name}: {first}{took['kept']} read from the cache in {took['reading']:.2f} s")


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def _accuracy(scores: dict[str, float]) -> str:
    return f"{scores['test']:.1%} [{scores['low']:.1%}, {scores['high']:.1%}]"


def _bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    return "█" * (eighths // 8) + (BLOCKS[eighths % 8 - 1] if eighths % 8 else "")
