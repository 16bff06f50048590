"""``vita check``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, SetOption, print_json, print_table


def check(
    target: Annotated[
        str,
        typer.Argument(metavar="NAME_OR_CONFIG", help="A registered tower, which gets random weights, or a config."),
    ],
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Run the conformance tests, which check that a tower keeps every contract.

    The exit code is 1 if a test fails.
    """
    from vita_core.planning.resolution import resolve
    from vita_core.planning.towers import named_tower

    if named_tower(target) is None:  # report a mistake in the config before torch is imported
        resolve(target, overrides or (), tower_only=True)
    from vita_core.testing import CHECKS, open_subject

    with open_subject(target, overrides or ()) as subject:
        results = [check.run(subject) for check in CHECKS]
        weights = "random" if subject.random_weights else subject.settings.weights
    failed = [result for result in results if result.outcome == "failed"]
    if json:
        rows = [
            {"check": r.check.name, "outcome": r.outcome, "contract": r.check.contract}
            | ({"seen": r.seen} if r.seen else {})
            | ({"remedy": r.check.remedy} if r.outcome == "failed" else {})
            for r in results
        ]
        print_json({"tower": target, "weights": weights, "checks": rows})
    else:
        cells = [(r.check.name, r.outcome, r.seen if r.outcome == "skipped" else r.check.contract) for r in results]
        print_table(
            f"tower {target}, {weights} weights", ["check", "outcome", "contract, or why it was skipped"], cells
        )
        for result in failed:
            typer.echo(f"\n{result.check.name} failed\n{result.message}")
        counts = Counter(result.outcome for result in results)
        typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if failed:
        raise typer.Exit(1)
