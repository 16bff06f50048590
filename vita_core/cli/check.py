"""``vita check``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from vita_core.cli.common import (
    JsonOption,
    SetOption,
    TowerOption,
    WeightsOption,
    place_of,
    print_json,
    print_table,
)


def check(
    target: Annotated[
        str | None,
        typer.Argument(metavar="NAME_OR_CONFIG", help="A registered tower, which gets random weights, or a config."),
    ] = None,
    tower: TowerOption = None,
    weights: WeightsOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Run the conformance tests, which check that a tower keeps every contract.

    The exit code is 1 if a test fails.
    """
    from vita_core.planning.described import named_tower
    from vita_core.planning.resolution import resolve

    place = place_of(target, tower, weights)
    if not isinstance(place, str) or named_tower(place) is None:  # report a mistake before torch is imported
        resolve(place, overrides or (), tower_only=True)
    from vita_core.testing import CHECKS, open_subject

    with open_subject(place, overrides or ()) as subject:
        results = [check.run(subject) for check in CHECKS]
        used = "random" if subject.random_weights else subject.settings.weights
    failed = [result for result in results if result.outcome == "failed"]
    if json:
        rows = [
            {"check": r.check.name, "outcome": r.outcome, "contract": r.check.contract}
            | ({"seen": r.seen} if r.seen else {})
            | ({"remedy": r.check.remedy} if r.outcome == "failed" else {})
            for r in results
        ]
        print_json({"tower": subject.name, "weights": used, "checks": rows})
    else:
        cells = [(r.check.name, r.outcome, r.seen if r.outcome == "skipped" else r.check.contract) for r in results]
        print_table(
            f"tower {subject.name}, {used} weights", ["check", "outcome", "contract, or why it was skipped"], cells
        )
        for result in failed:
            typer.echo(f"\n{result.check.name} failed\n{result.message}")
        counts = Counter(result.outcome for result in results)
        typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if failed:
        raise typer.Exit(1)
