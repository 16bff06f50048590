"""The charts of the page: what each one shows, in words and as plotly's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita_core.comparing.page import drawing
from vita_core.comparing.page.drawing import plain

__all__ = ["Chart", "charts"]


@dataclass(frozen=True)
class Chart:
    """A figure: its id on the page, its heading, what it shows in words, and plotly's ``data`` and ``layout``.

    `numbered` are the names of what has the numbers 1, 2, ... in it.
    """

    id: str
    title: str
    told: str
    figure: Mapping[str, Any]
    numbered: Sequence[str] = ()


@dataclass(frozen=True)
class Measure:
    """A score of a config: its key, name, number format in plotly, and whether more of it is better."""

    key: str
    name: str
    ticks: str
    more: bool

    def told(self, found: Mapping[str, float]) -> str:
        """Return a mean with its interval in words."""
        form = ".1%" if self.key == "named" else ".3f"
        mean, low, high = (format(found[key], form) for key in ("mean", "low", "high"))
        return f"{mean}, 95% interval {low} to {high}"


@dataclass(frozen=True)
class Series:
    """A config that did not fail: its label, and its number among all configs, which gives its colour and mark."""

    label: str
    number: int
    config: Mapping[str, Any]


NAMED = Measure("named", "pictures named", ".0%", more=True)
LOSS = Measure("loss", "held-out loss", "~g", more=False)


def charts(
    comparison: Mapping[str, Any], timings: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, list[Chart]]:
    """Return the charts of each section of the page that has any. `labels` has the shown name of each config."""
    every = [Series(labels[one["name"]], number, one) for number, one in enumerate(comparison["configs"])]
    alive = [one for one in every if one.config["failed"] is None]
    if not alive:
        return {}
    found = {
        "intervals": [_intervals(measure, alive) for measure in (NAMED, LOSS)],
        "differences": [
            *_differences(NAMED, comparison["pairs"], alive),
            *_differences(LOSS, comparison["pairs"], alive),
        ],
        "curves": [*_curves(alive)],
        "cost": [*_costs(alive, timings)],
        "likeness": [*_likeness(comparison["cka"], labels)],
    }
    return {section: drawn for section, drawn in found.items() if drawn}


def _best_first(alive: Sequence[Series], measure: Measure) -> list[Series]:
    return sorted(alive, key=lambda one: one.config[measure.key]["mean"], reverse=measure.more)


def _intervals(measure: Measure, alive: Sequence[Series]) -> Chart:
    """Return the forest plot of a measure: the best config on top."""
    traces: list[dict[str, Any]] = []
    rows = _best_first(alive, measure)
    for row, one in enumerate(rows):
        found, colour = one.config[measure.key], drawing.colour(one.number)
        seeds = [seed[measure.key] for seed in one.config["seeds"]]
        traces.append(drawing.interval(found, row, measure.told(found), one.number))
        traces.append(drawing.points(seeds, row, "line-ns-open", colour, f"a seed: %{{x:{measure.ticks}}}"))
        if measure is NAMED:
            chance = one.config["shuffled"]
            told = f"with captions shuffled: {measure.told(chance)}"
            traces.append(drawing.points([chance["mean"]], row, "circle-open", "var(--muted)", told, size=14))
    told = "Each row is a config: the mark is its mean, the line its 95% interval, each small stroke a seed. "
    told += "Grey rings: with the captions shuffled, which is chance." if measure is NAMED else "Lower is better."
    figure = drawing.forest(traces, [one.label for one in rows], measure.name, measure.ticks)
    return Chart(f"intervals-{measure.key}", f"{measure.name.capitalize()}, with 95% intervals", told, figure)


def _differences(measure: Measure, pairs: Sequence[Mapping[str, Any]], alive: Sequence[Series]) -> Iterator[Chart]:
    """Yield the forest plot of the differences of the config with the best mean to every other one."""
    best, *others = _best_first(alive, measure)
    found = {(pair["a"], pair["b"]): pair for pair in pairs if pair["measure"] == measure.key}
    rows: list[str] = []
    traces: list[dict[str, Any]] = []
    for row, other in enumerate(others):
        names = best.config["name"], other.config["name"]
        pair, sign = (found[names], 1) if names in found else (found[names[::-1]], -1)
        low, high = sorted(sign * pair[key] for key in ("low", "high"))
        values = {"mean": sign * pair["difference"], "low": low, "high": high}
        p = f"p = {pair['p_holm']:.2g}"
        shown = pair["significant"]
        traces.append(drawing.interval(values, row, f"{measure.told(values)}, {p}", other.number, filled=shown))
        rows.append(f"{drawing.short(other.label, 28)}: {p}")
    if rows:
        told = (
            "The config with the best mean minus each other one, with 95% intervals. Filled marks are differences that are "
            "shown after Holm's correction, hollow ones are not. "
            f"{'Right' if measure.more else 'Left'} of zero, {best.label} is better."
        )
        figure = drawing.forest(traces, rows, f"difference in {measure.name}", measure.ticks, zero=True)
        yield Chart(
            f"differences-{measure.key}",
            f"{measure.name.capitalize()}: {best.label} minus each other config",
            told,
            figure,
        )


def _curves(alive: Sequence[Series]) -> Iterator[Chart]:
    """Yield the chart of the training losses, if any was recorded."""
    drawn = [one for one in alive if one.config["curve"]]
    traces = [trace for one in drawn for trace in drawing.curve(one.config["curve"], one.number, one.label)]
    if traces:
        told = "The mean training loss over the seeds by step. The band is from the lowest seed to the highest."
        axes = {"xaxis": drawing.axis("step"), "yaxis": drawing.axis("training loss")}
        yield Chart("curves-loss", "Training loss by step", told, drawing.figure(traces, axes | drawing.legend()))


def _costs(alive: Sequence[Series], timings: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the chart of accuracy against time, if a time is known."""
    traces: list[dict[str, Any]] = []
    for one in alive:
        time, named = timings.get(one.config["name"], {}).get("ms_per_picture"), one.config["named"]
        if time is not None:
            mark = drawing.interval(named, time["median"], f"{time['median']:.3g} ms, {NAMED.told(named)}", one.number)
            mark |= {"x": mark["y"], "y": mark["x"], "error_y": mark["error_x"]}
            mark["error_x"] = drawing.error(time["median"], time["low"], time["high"], drawing.colour(one.number))
            traces.append(mark | {"name": plain(one.label)})
    if traces:
        told = (
            "Each mark is a config: further left is faster, further up names more pictures. The lines are the 95% interval of "
            "the share, and the fastest and the slowest round of the timing."
        )
        across = drawing.axis("tower, ms a picture", rangemode="tozero")
        axes = {"xaxis": across, "yaxis": drawing.axis(NAMED.name, tickformat=NAMED.ticks)}
        yield Chart("cost-time", "Pictures named against time", told, drawing.figure(traces, axes | drawing.legend()))


def _likeness(cka: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Chart]:
    told = "Linear CKA: 1 for features that are equal but for a rotation and a scale, 0 for unrelated ones."
    names = [labels[name] for name in cka["towers"]]
    if len(names) > 1:
        marks = [str(number) for number in range(1, len(names) + 1)]
        figure = drawing.heatmap(names, marks, cka["matrix"], "tower")
        yield Chart("likeness-towers", "Between towers", told, figure, names)
    for place, name in enumerate(name for name in labels if name in cka["layers"]):
        found = cka["layers"][name]
        marks = [str(layer) for layer in found["layers"]]
        figure = drawing.heatmap([f"layer {mark}" for mark in marks], marks, found["matrix"], "layer")
        yield Chart(f"likeness-layers-{place}", f"Between the layers of {labels[name]}", told, figure)
