"""Write ``comparison.md`` from the files of a comparison. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vita_core.comparing.markdown import code, typed
from vita_core.comparing.records import AGAIN, read_written, showing
from vita_core.comparing.verdict import percent, sides
from vita_core.weights.files import write_text

__all__ = ["benchmark_columns", "report", "write_report"]

MARK = "†"
"""Behind the name of a config that is not compared on equal terms."""


def write_report(folder: Path, *, new: bool = False) -> Path:
    """Write ``comparison.md`` from ``comparison.json`` and ``timings.json`` in a folder, and return its path.

    Raises VitaError for a damaged file, unless they are `new` (see `vita_core.comparing.records.showing`).
    """
    comparison, timings = (read_written(folder / name, AGAIN) for name in ("comparison.json", "timings.json"))
    with showing(folder / "comparison.json", new=new):
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(report(comparison, timings)))
    write_text(folder / "comparison.md", f"{text}\n")
    return folder / "comparison.md"


def report(comparison: Mapping[str, Any], timings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    configs = {one["name"]: one for one in comparison["configs"]}
    names = {name: f"{typed(name)} {MARK}" if one["unequal"] else typed(name) for name, one in configs.items()}
    alive = {name: one for name, one in configs.items() if one["failed"] is None}
    yield from ("# Comparison", "", f"**{typed(comparison['verdict'])}**", "")
    yield from (f"- {typed(note)}" for note in comparison["notes"])
    yield from ("", *_how(comparison), "")
    yield from _section("Results", comparison, _results(configs, names))
    if comparison["pairs"]:
        yield from _section("Differences", comparison, _differences(comparison["pairs"], names))
        yield (
            "A row is first minus second, on the same pictures and seeds. The p-values are those after Holm's correction for "
            f"all {len(comparison['pairs'])} rows; the intervals are not corrected. `needed` is how many test pictures would "
            "show a difference of this size in 4 of 5 comparisons; `-` means that more pictures would not do."
        )
    if any(one.get("lmms_eval") for one in alive.values()):
        yield from _section("Benchmarks", comparison, _benchmarks(alive, names))
        yield "Scores of lmms-eval, the mean over the seeds. They have no intervals, and the verdict does not use them."
    if comparison["settings"]["tune"]:
        yield from _section("Learning rates", comparison, _tuning(alive, names))
    if alive:
        yield from _section("Cost", comparison, _cost(alive, names, timings))
        yield (
            "GFLOPs are those of the tower, the projector and the language model on the picture's tokens. The towers take turns "
            "while their time is measured; in brackets are the fastest and the slowest round, and the shortest and the longest "
            "training."
        )
        yield from _section("How alike the towers are", comparison, _cka(comparison["cka"], names))
        yield (
            f"Linear CKA (arXiv 1905.00414) of the mean tokens of {comparison['cka']['pictures']} pictures, before any "
            "training: 1 for features that are equal but for a rotation and a scale, 0 for unrelated ones. Few pictures make "
            "it larger."
        )
        yield from _section("Answers about the same pictures", comparison, _answers(comparison, alive, names))
        yield "The answers are those of the first seed. **Bold** answers name what the picture shows."


def _how(comparison: Mapping[str, Any]) -> Iterator[str]:
    data, settings = comparison["data"], comparison["settings"]
    seeds = ", ".join(map(str, settings["seeds"]))
    steps = "" if settings["steps"] is None else f", {settings['steps']} steps"
    tokens = "" if settings["tokens"] is None else f", {settings['tokens']} visual tokens a picture"
    yield (
        f"Data {code(data['name'])}: {data['train']} pictures to train on, {data['validation']} for validation, {data['test']} "
        f"for the test; near-duplicates are in the same split. Every config: seeds {seeds}{steps}{tokens}, the same pictures in "
        "the same order. Intervals are 95%, from resampled pictures and seeds."
    )


def _section(title: str, comparison: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a heading and a table. Its first column is text, the others are numbers or texts as they are."""
    yield from ("", f"## {title}", "")
    head, *body = rows
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    yield from ("| " + " | ".join(row) + " |" for row in body)
    yield ""
    if comparison["unequal"] and any(MARK in cell for row in rows for cell in row):
        yield from (f"{MARK} Not on equal terms: {'; '.join(map(typed, comparison['unequal']))}", "")


def _results(configs: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    head = ["config", "tower", "tokens", "held-out loss", "pictures named", "with captions shuffled", "learning rate"]
    rows = [head]
    for name, one in configs.items():
        tokens = (
            str(one["tokens"])
            if one["tokens"] == one["tokens_before"]
            else f"{one['tokens']} of {one['tokens_before']}"
        )
        tower = typed(f"{one['tower']} {one['weights']}")
        if one["failed"] is not None:
            rows.append([names[name], tower, tokens, typed(f"failed: {one['failed']}"), "-", "-", "-"])
            continue
        loss = "{mean:.3f} ({low:.3f} to {high:.3f})".format(**one["loss"])
        scores = [loss, percent(one["named"]), percent(one["shuffled"])]
        rows.append([names[name], tower, tokens, *scores, f"{one['learning_rate']:g}"])
    return rows


def _differences(pairs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[list[str]]:
    rows = [["first", "second", "of", "difference", "95% interval", "p", "better", "needed"]]
    for pair in pairs:
        named = pair["measure"] == "named"
        what = ["pictures named", *(f"{pair[key]:+.1%}" for key in ("difference", "low", "high"))]
        if not named:
            what = ["held-out loss", *(f"{pair[key]:+.3f}" for key in ("difference", "low", "high"))]
        better = sides(pair)[0] if pair["significant"] else None
        needed = "" if pair["significant"] else "-" if pair["needed"] is None else f"{pair['needed']:,}"
        told = "not shown" if better is None else f"**{names[better]}**"
        measure, difference, low, high = what
        interval = f"{low} to {high}"
        rows.append(
            [names[pair["a"]], names[pair["b"]], measure, difference, interval, f"{pair['p_holm']:.2g}", told, needed]
        )
    return rows


def _benchmarks(alive: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    columns = benchmark_columns(alive.values())
    rows = [["config", *map(typed, columns)]]
    for name, one in alive.items():
        found = [one.get("lmms_eval", {}).get(task, {}).get(metric) for task, metric in columns.values()]
        rows.append([names[name], *("-" if value is None else f"{value:,.4g}" for value in found)])
    return rows


def benchmark_columns(configs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the task and metric of lmms-eval by which any config was scored, by what the column is called."""
    scores = [(task, metric) for one in configs for task, row in one.get("lmms_eval", {}).items() for metric in row]
    return {
        metric if metric.startswith(task) else f"{task} {metric}": (task, metric) for task, metric in sorted({*scores})
    }


def _tuning(alive: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    rates = sorted({row["learning_rate"] for one in alive.values() for row in one["tuning"]})
    rows = [["validation loss of the first seed at", *(f"{rate:g}" for rate in rates)]]
    for name, one in alive.items():
        tried = {row["learning_rate"]: row["validation_loss"] for row in one["tuning"]}
        found = {rate: loss for rate, loss in tried.items() if loss is not None}
        cells = [f"{found[rate]:.3f}" if rate in found else "-" for rate in rates]
        rows.append(
            [
                names[name],
                *(
                    f"**{cell}**" if rate == one["learning_rate"] else cell
                    for rate, cell in zip(rates, cells, strict=True)
                ),
            ]
        )
    return rows


def _cost(alive: Mapping[str, Any], names: Mapping[str, str], timings: Mapping[str, Any]) -> list[list[str]]:
    head = [
        "config",
        "tower parameters",
        "projector parameters",
        "GFLOPs a picture",
        "tower, ms a picture",
        "training, s",
        "peak memory, GB",
    ]
    rows = [head]
    for name, one in alive.items():
        time, sizes = timings[name], one["parameters"]
        took, each = time["training_seconds"], time["ms_per_picture"]
        peak = time["peak_bytes"]
        rows.append(
            [
                names[name],
                f"{sizes['tower']:,}",
                f"{sizes['projector'] + sizes['reduce']:,}",
                f"{one['flops_per_picture'] / 1e9:,.2f}",
                "-" if each is None else "{median:.1f} ({low:.1f} to {high:.1f})".format(**each),
                "-" if took is None else "{median:.0f} ({low:.0f} to {high:.0f})".format(**took),
                "-" if peak is None else f"{peak / 1e9:.2f}",
            ]
        )
    return rows


def _cka(cka: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    towers = [names[name] for name in cka["towers"]]
    return [
        ["", *towers],
        *([name, *(f"{value:.2f}" for value in row)] for name, row in zip(towers, cka["matrix"], strict=True)),
    ]


def _answers(comparison: Mapping[str, Any], alive: Mapping[str, Any], names: Mapping[str, str]) -> list[list[str]]:
    rows = [["picture", "caption", *(names[name] for name in alive)]]
    for row in comparison["examples"]:
        answers = [typed(row["answers"][name]) for name in alive]
        told = [f"**{answer}**" if row["named"][name] else answer for name, answer in zip(alive, answers, strict=True)]
        rows.append([typed(row["image"]), typed(row["caption"]), *told])
    return rows
