"""Write the tables of combine.md: sizes and costs come from the specs, times from benchmarks/results/fusion.json."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.append(str(REPOSITORY / "benchmarks"))
from cases import SIZES, WIDTH, projectors, steps  # noqa: E402  # a script's folder, found only now
from marked import filled  # noqa: E402  # beside it

RESULTS = REPOSITORY / "benchmarks" / "results" / "fusion.json"
FROM_THE_FIRST = re.compile(r"\[1, 2, [0-9, ]+, (?=\d+\])")
"""A long list of blocks, up to the last, which is shown as its ends."""
Row = dict[str, Any]


def measured(*topics: str) -> list[Row]:
    """Return the measured rows of some topics, or none before the first measurement."""
    rows: list[Row] = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []
    return [row for row in rows if row["topic"] in topics]


def spread(cell: dict[str, float]) -> str:
    return f"{cell['median']} ({cell['low']}-{cell['high']})"


def large(number: int) -> str:
    """Return a number in millions, or as it is if it is small."""
    return "0" if number == 0 else f"{number / 1e6:,.1f} M"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    """Return a table of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def reductions() -> list[str]:
    """Return the table of every registered reduction: what it does, its paper, its sizes and its costs."""
    rows_of = measured("reduction", "learned")
    shares = {row["what"]: row for row in rows_of if row["beside"].startswith("%")}
    predicted = {row["what"]: spread(row["ratio"]) for row in rows_of if not row["beside"].startswith("%")}

    def rows() -> Iterator[Sequence[str]]:
        for step in steps():
            *places, width = step.resolved.after
            size = " x ".join(map(str, places)) if len(places) == 2 else f"{math.prod(places)}, no grid"
            yield (
                f"`{step}`",
                size,
                str(width),
                large(step.resolved.parameters),
                large(step.resolved.macs),
                *times(shares, str(step)),
                predicted.get(str(step), ""),
            )

    head = ("step", "tokens", "width", "parameters", "multiply-accumulates", "ms", "% of the encoder's time")
    return table((*head, "time / that of as many operations of the encoder"), rows())


def times(shares: dict[str, Row], name: str) -> tuple[str, str]:
    """Return the milliseconds of a step and its share of the encoder's time."""
    row = shares.get(name)
    return ("not measured", "") if row is None else (f"{row['ms']:.3g}", spread(row["ratio"]))


def papers() -> list[str]:
    """Return the table of what each reduction does, with its paper."""
    kinds = {step.resolved.spec.name: step.resolved.spec for step in steps()}
    learns = {True: "yes", False: "no"}
    rows = (
        (f"`{name}`", spec.summary, learns[spec.trainable], "yes" if spec.spatial else "no", spec.paper)
        for name, spec in kinds.items()
    )
    return table(("type", "what it does", "learns", "needs a grid", "paper"), rows)


def projecting() -> list[str]:
    """Return the table of the projectors that change the number of tokens."""
    shares = {row["what"]: row for row in measured("projector")}

    def rows() -> Iterator[Sequence[str]]:
        for each in projectors():
            grid, tokens = each.behind(SIZES[:2], SIZES[0] * SIZES[1])
            size = f"{tokens}, no grid" if grid is None else " x ".join(map(str, grid))
            costs = large(each.parameters(WIDTH)), large(each.macs(SIZES[:2], SIZES[0] * SIZES[1], WIDTH))
            yield (f"`{each.name}`", size, *costs, *times(shares, each.name))

    return table(("type", "tokens", "parameters", "multiply-accumulates", "ms", "% of the encoder's time"), rows())


def fusion() -> list[str]:
    """Return the table of the measured pairs of encoders."""
    memory = {row["what"].rpartition(",")[0]: row["ratio"]["median"] for row in measured("memory")}
    rows = ((row["what"], spread(row["ratio"]), str(memory.get(row["what"], ""))) for row in measured("fused"))
    return table(("encoders, `combine`", "time / the parts apart", "memory / larger part and output"), rows)


def inside() -> list[str]:
    """Return the table of the reductions inside the encoder: the plan's ratio of operations, and the measured one over it."""
    rows = (
        (f"`{FROM_THE_FIRST.sub('[1, 2, ..., ', row['what'])}`", row["beside"].rpartition(" ")[2], spread(row["ratio"]))
        for row in measured("inside")
    )
    return table(("step", "operations / without it, as planned", "time / without it, over the planned"), rows)


TABLES = {"fusion": fusion, "papers": papers, "reductions": reductions, "inside": inside, "projectors": projecting}


def combine() -> str:
    """Return combine.md with new tables."""
    page = (REPOSITORY / "docs" / "combine.md").read_text(encoding="utf-8")
    for name, lines in TABLES.items():
        page = filled(page, name, lines())
    return page
