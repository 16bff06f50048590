"""The tables of the page: texts, and the values that their columns are sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita_core.comparing.report import benchmark_columns
from vita_core.comparing.verdict import sides

__all__ = ["Cell", "Column", "Table", "benchmarks", "differences", "likeness", "results", "tuning"]

Key = float | str | None


@dataclass(frozen=True)
class Column:
    """The head of a column. `told` explains it; with `falls`, the first click sorts it from high to low."""

    name: str
    told: str = ""
    falls: bool = False


@dataclass(frozen=True)
class Cell:
    """A text, a smaller one below it, and what it is sorted by (None: always behind the others). It may span columns."""

    text: str
    detail: str = ""
    key: Key = None
    strong: bool = False
    span: int = 1


@dataclass(frozen=True)
class Table:
    """A table. The first cell of a row is its heading. `by` is the number of the column that it is sorted by already."""

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    by: int | None = None


RESULTS = (
    Column("config", "below its name, the encoder and its weights"),
    Column("pictures named", "share of the test pictures whose answer has the name, with its 95% interval", falls=True),
    Column("shuffled", "the same with the captions shuffled, which is chance", falls=True),
    Column("held-out loss", "mean loss of the captions of the test pictures, with its 95% interval; lower is better"),
    Column(
        "tokens", "visual tokens of a picture in the language model; below it, without the pooling of the comparison"
    ),
    Column("parameters", "of the tower; below it, of what is between tower and language model"),
    Column("GFLOPs", "operations for a picture"),
    Column("ms a picture", "the tower with its preprocessing: median, lowest and highest round"),
    Column("peak memory", "of the whole process, while training"),
    Column("training", "one run: median, shortest and longest; the first run of a tower also encodes the pictures"),
)


def results(comparison: Mapping[str, Any], timings: Mapping[str, Any], labels: Mapping[str, str]) -> Table:
    """Return a row for each config: the one that names most pictures on top, and those that failed at the end."""
    alive = [one for one in comparison["configs"] if one["failed"] is None]
    alive.sort(key=lambda one: -one["named"]["mean"])
    rows = [_result(one, timings.get(one["name"], {}), labels) for one in alive]
    for one in comparison["configs"]:
        if one["failed"] is not None:
            rest = Cell(f"failed: {one['failed']}", strong=True, span=len(RESULTS) - 1)
            rows.append([_named(one, labels), rest])
    return Table("results", "The configs. Best first: the one that names most pictures.", RESULTS, rows, by=1)


def _named(one: Mapping[str, Any], labels: Mapping[str, str]) -> Cell:
    return Cell(labels[one["name"]], f"{one['tower']} {one['weights']}", one["name"])


def _result(one: Mapping[str, Any], timing: Mapping[str, Any], labels: Mapping[str, str]) -> list[Cell]:
    sizes, tokens, before = one["parameters"], one["tokens"], one["tokens_before"]
    between = sizes["projector"] + sizes["reduce"]
    peak = timing.get("peak_bytes")
    return [
        _named(one, labels),
        Cell(
            f"{one['named']['mean']:.1%}",
            "{low:.1%} to {high:.1%}".format(**one["named"]),
            one["named"]["mean"],
            strong=True,
        ),
        Cell(
            f"{one['shuffled']['mean']:.1%}",
            "{low:.1%} to {high:.1%}".format(**one["shuffled"]),
            one["shuffled"]["mean"],
        ),
        Cell(f"{one['loss']['mean']:.3f}", "{low:.3f} to {high:.3f}".format(**one["loss"]), one["loss"]["mean"]),
        Cell(f"{tokens:,}", "" if tokens == before else f"of {before:,}", tokens),
        Cell(_scaled(sizes["tower"]), f"+ {_scaled(between)}", sizes["tower"]),
        Cell(f"{one['flops_per_picture'] / 1e9:,.3g}", key=one["flops_per_picture"]),
        _spread(timing.get("ms_per_picture"), ".3g", ""),
        Cell("-") if peak is None else Cell(f"{peak / 1e9:.2f} GB", key=peak),
        _spread(timing.get("training_seconds"), ",.0f", " s"),
    ]


def _spread(found: Mapping[str, float] | None, form: str, unit: str) -> Cell:
    if found is None:
        return Cell("-")
    low, high = (format(found[key], form) for key in ("low", "high"))
    return Cell(f"{found['median']:{form}}{unit}", f"{low} to {high}", found["median"])


def _scaled(count: float) -> str:
    """Return a number of parameters as people say it: 86.6 M."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def differences(pairs: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> Table:
    """Return a row for each pair of configs and measure: first minus second."""
    columns = (
        Column("configs"),
        Column("of"),
        Column(
            "difference",
            "the first config minus the second on the same pictures and seeds, with its 95% interval",
            falls=True,
        ),
        Column("p", f"after Holm's correction for all {len(pairs)} rows; below it, without"),
        Column("better"),
        Column("pictures needed", "how many test pictures would show a difference of this size in 4 of 5 comparisons"),
    )
    rows = [_difference(pair, labels) for pair in pairs]
    return Table("differences", "Paired differences between the configs", columns, rows)


def _difference(pair: Mapping[str, Any], labels: Mapping[str, str]) -> list[Cell]:
    named = pair["measure"] == "named"
    difference, low, high = (
        f"{100 * pair[key]:+.1f}" if named else f"{pair[key]:+.3g}" for key in ("difference", "low", "high")
    )
    better = labels[sides(pair)[0] or ""] if pair["significant"] else "not shown"
    needed = Cell("") if pair["significant"] else Cell("-")
    if pair["needed"] is not None:
        needed = Cell(f"{pair['needed']:,}", key=pair["needed"])
    return [
        Cell(labels[pair["a"]], f"minus {labels[pair['b']]}", pair["a"]),
        Cell("pictures named" if named else "held-out loss", key=pair["measure"]),
        Cell(f"{difference} points" if named else difference, f"{low} to {high}", pair["difference"]),
        Cell(f"{pair['p_holm']:.2g}", f"{pair['p']:.2g}", pair["p_holm"], strong=pair["significant"]),
        Cell(better, key=better, strong=pair["significant"]),
        needed,
    ]


def benchmarks(comparison: Mapping[str, Any], labels: Mapping[str, str]) -> Table | None:
    """Return the scores of lmms-eval, or None if there are none."""
    scored = [one for one in comparison["configs"] if one.get("lmms_eval")]
    columns = benchmark_columns(scored)
    if not columns:
        return None
    rows = []
    for one in scored:
        values = [one["lmms_eval"].get(task, {}).get(metric) for task, metric in columns.values()]
        cells = [Cell("-") if value is None else Cell(f"{value:,.4g}", key=value) for value in values]
        rows.append([Cell(labels[one["name"]], key=one["name"]), *cells])
    heads = [Column("config"), *(Column(name, falls=True) for name in columns)]
    return Table("benchmarks", "Scores of lmms-eval, the mean over the seeds", heads, rows)


def tuning(comparison: Mapping[str, Any], labels: Mapping[str, str]) -> Table | None:
    """Return the validation losses of the learning rates that were tried, or None if none were."""
    alive = [one for one in comparison["configs"] if one["tuning"]]
    rates = sorted({row["learning_rate"] for one in alive for row in one["tuning"]})
    if not rates:
        return None
    rows = []
    for one in alive:
        tried = {row["learning_rate"]: row["validation_loss"] for row in one["tuning"]}
        found = {rate: loss for rate, loss in tried.items() if loss is not None}
        row = [Cell(labels[one["name"]], key=one["name"])]
        for rate in rates:
            chosen = rate == one["learning_rate"]
            row.append(
                Cell(f"{found[rate]:.3f}", "chosen" if chosen else "", found[rate], chosen)
                if rate in found
                else Cell("-")
            )
        rows.append(row)
    columns = [
        Column("config"),
        *(Column(f"{rate:g}") for rate in rates),
    ]
    return Table(
        "tuning", "Learning rates that were tried: the loss of the first seed on the validation pictures", columns, rows
    )


def likeness(cka: Mapping[str, Any], labels: Mapping[str, str]) -> Table | None:
    """Return the CKA between towers as numbers, or None for fewer than two."""
    towers = [labels[name] for name in cka["towers"]]
    if len(towers) < 2:
        return None
    columns = [Column("tower"), *(Column(f"{place} {name}") for place, name in enumerate(towers, 1))]
    rows = [
        [Cell(f"{place} {name}", key=place), *(Cell(f"{value:.3f}", key=value) for value in row)]
        for place, (name, row) in enumerate(zip(towers, cka["matrix"], strict=True), 1)
    ]
    return Table("likeness", "Linear CKA between the towers", columns, rows)
