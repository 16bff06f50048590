"""``vita check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from vita_core.cli.exits import FAILURES

if TYPE_CHECKING:
    from vita_core.testing import Result


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME_OR_CONFIG",
            help="A registered tower, reduction or projector, which gets random weights, or a config of a tower.",
        ),
    ] = None,
    kind: Annotated[
        Literal["tower", "reduction", "projector"] | None,
        typer.Option(help="What NAME is, if it is the name of several kinds."),
    ] = None,
    tower: TowerOption = None,
    weights: WeightsOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Run the conformance tests, which check that a tower, a reduction or a projector keeps every contract.

    With the name of a reduction or a projector, `--set` changes its options. The exit code is 3 if a test fails.
    """
    from vita_core.planning.described import named_tower
    from vita_core.planning.named import check_named, kind_of
    from vita_core.planning.resolution import resolve

    place, options = place_of(target, tower, weights), overrides or ()
    found = kind_of(place, kind) if isinstance(place, str) else "tower"
    if found != "tower":
        check_named(str(place), found)
    elif not isinstance(place, str) or named_tower(place) is None:  # report a mistake before torch is imported
        resolve(place, options, tower_only=True)
    from vita_core.testing import KIT

    checks, opened = KIT[found]
    with opened(place, options) as subject:
        results = [check.run(subject) for check in checks]
        used = subject.origin.source.weights if found == "tower" and not subject.random_weights else "random"
    report({found: subject.name, "weights": used}, results, json=json)


def report(tested: Mapping[str, Any], results: Sequence[Result], *, json: bool) -> None:
    """Print the results for what was `tested`. Raises typer.Exit with 3 if one failed."""
    failed = [result for result in results if result.outcome == "failed"]
    if json:
        rows = [
            {"check": r.check.name, "outcome": r.outcome, "contract": r.check.contract}
            | ({"seen": r.seen} if r.seen else {})
            | ({"remedy": r.check.remedy} if r.outcome == "failed" else {})
            for r in results
        ]
        print_json({**tested, "checks": rows})
    else:
        cells = [(r.check.name, r.outcome, r.seen if r.outcome == "skipped" else r.check.contract) for r in results]
        (kind, name), (_, used) = tested.items()
        print_table(f"{kind} {name}, {used} weights", ["check", "outcome", "contract, or why it was skipped"], cells)
        for result in failed:
            typer.echo(f"\n{result.check.name} failed\n{result.message}")
        counts = Counter(result.outcome for result in results)
        typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if failed:
        raise typer.Exit(FAILURES)
