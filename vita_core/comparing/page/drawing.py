"""Draw marks with intervals, curves, forest plots and heatmaps as plotly's JSON.

A colour ``var(--name)`` is a property of ``page.css``: dark and light have their own. Plotly reads some HTML in texts, so
names are escaped. All positions are numbers, since plotly would guess the type of an axis from names such as ``2026-11``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = [
    "axis",
    "colour",
    "curve",
    "error",
    "figure",
    "forest",
    "heatmap",
    "interval",
    "legend",
    "plain",
    "points",
    "short",
]

SERIES = 8
"""How many colours ``page.css`` has for configs. With more configs, marks and dashes tell them apart."""
MARKS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "star",
    "x",
    "hexagon",
    "triangle-down",
    "pentagon",
    "bowtie",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "4px 2px")
ROW = 52
"""The height of a row of a forest plot, in pixels."""
CELLS_WITH_NUMBERS = 8
LONGEST = 44
"""Longer names are cut in a chart, which has room for so many letters on a phone."""


def interval(found: Mapping[str, float], row: float, told: str, number: int, *, filled: bool = True) -> dict[str, Any]:
    """Return the mark of the config of a `number`, with its interval, in a row of a forest plot."""
    symbol = MARKS[number % len(MARKS)]
    line = {"width": 2, "color": colour(number)}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [found["mean"]],
        "y": [row],
        "error_x": error(found["mean"], found["low"], found["high"], colour(number)),
        "marker": {"symbol": symbol if filled else f"{symbol}-open", "size": 11, "color": colour(number), "line": line},
        "hovertemplate": f"{told}<extra></extra>",
    }


def points(values: Sequence[float], row: int, symbol: str, colour: str, told: str, size: int = 9) -> dict[str, Any]:
    """Return thin marks in a row of a forest plot."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [*values],
        "y": [row] * len(values),
        "marker": {"symbol": symbol, "size": size, "color": colour, "line": {"width": 1.5, "color": colour}},
        "hovertemplate": f"{told}<extra></extra>",
    }


def error(mean: float, low: float, high: float, colour: str) -> dict[str, Any]:
    """Return the line of a mark from `low` to `high`."""
    return {"array": [high - mean], "arrayminus": [mean - low], "color": colour, "thickness": 2.5, "width": 5}


def curve(found: Sequence[Mapping[str, float]], number: int, name: str) -> list[dict[str, Any]]:
    """Return the band and the line of a learning curve of points ``{"step", "loss", "low", "high"}``."""
    step, loss, low, high = ([point[key] for point in found] for key in ("step", "loss", "low", "high"))
    common = {"type": "scatter", "mode": "lines", "legendgroup": str(number), "name": plain(name)}
    fill = {"fill": "toself", "fillcolor": f"var(--band-{number % SERIES})", "line": {"width": 0}, "hoverinfo": "skip"}
    line = {"color": colour(number), "width": 2, "dash": DASHES[number % len(DASHES)]}
    return [
        {**common, **fill, "x": [*step, *reversed(step)], "y": [*high, *reversed(low)], "showlegend": False},
        {**common, "line": line, "x": step, "y": loss},
    ]


def forest(
    traces: list[dict[str, Any]], rows: Sequence[str], title: str, ticks: str, *, zero: bool = False
) -> dict[str, Any]:
    """Return a forest plot of marks, with a line at `zero` if that is asked for.

    The name of a row stands above it, so that a phone has the whole width for the lines.
    """
    ends = [end for trace in traces for end in _ends(trace)] + ([0.0] if zero else [])
    edge = 0.06 * ((max(ends) - min(ends)) or 1)
    across = {
        "range": [min(ends) - edge, max(ends) + edge],
        "zeroline": zero,
        "zerolinewidth": 2,
        "zerolinecolor": "var(--ink)",
    }
    right = zero and max(ends) > -min(ends)  # the names stand where the line at zero does not
    side = {"x": int(right), "xref": "paper", "xanchor": "right" if right else "left"}
    look = {"yshift": 18, "showarrow": False, "bgcolor": "var(--raised)"}
    layout = {
        "xaxis": axis(title, tickformat=ticks) | across,
        "yaxis": {"visible": False, "range": [len(rows) - 0.5, -0.75]},
        "annotations": [{"text": plain(name), "y": row, **side, **look} for row, name in enumerate(rows)],
        "showlegend": False,
        "hovermode": "closest",
    }
    return figure(traces, {**layout, "height": ROW * len(rows) + 76})


def _ends(trace: Mapping[str, Any]) -> Iterator[float]:
    """Yield the positions of a trace's marks, and the ends of its interval."""
    yield from trace["x"]
    if "error_x" in trace:
        yield trace["x"][0] - trace["error_x"]["arrayminus"][0]
        yield trace["x"][0] + trace["error_x"]["array"][0]


def heatmap(names: Sequence[str], marks: Sequence[str], matrix: Sequence[Sequence[float]], what: str) -> dict[str, Any]:
    """Return the heatmap of a square matrix. Its rows and columns have short `marks`; the hover text has the `names`."""
    trace = {
        "type": "heatmap",
        "z": matrix,
        "zmin": 0,
        "zmax": 1,
        "xgap": 2,
        "ygap": 2,
        "colorscale": [[0, "var(--low)"], [0.5, "var(--middle)"], [1, "var(--high)"]],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 1, "tickvals": [0, 0.5, 1], "x": 1.02},
        "customdata": [[f"{plain(first)} and {plain(second)}" for second in names] for first in names],
        "hovertemplate": "%{customdata}: %{z:.3f}<extra></extra>",
        "textfont": {"color": "var(--ink)"},
    }
    if len(names) <= CELLS_WITH_NUMBERS:
        trace["texttemplate"] = "%{z:.2f}"
    bare = {"showgrid": False, "zeroline": False, "ticks": "", "tickvals": [*range(len(names))], "ticktext": [*marks]}
    axes = {"xaxis": axis(what, **bare), "yaxis": axis(what, autorange="reversed", **bare)}
    return figure([trace], {**axes, "height": 340})


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis of numbers that cannot be dragged."""
    lines = dict.fromkeys(("gridcolor", "zerolinecolor", "linecolor", "tickcolor"), "var(--grid)")
    told = {"text": title, "standoff": 8, "font": {"size": 13}}
    return {"title": told, "type": "linear", "automargin": True, "fixedrange": True, **lines, **more}


def legend() -> dict[str, Any]:
    """Return the layout of a chart with a legend below it."""
    place = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "itemsizing": "constant"}
    return {"showlegend": True, "legend": place, "height": 420}


def figure(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Return a figure, checked by plotly."""
    import plotly.graph_objects as go

    common = {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--font)", "size": 13, "color": "var(--ink)"},
        "hoverlabel": {"bgcolor": "var(--raised)", "bordercolor": "var(--muted)", "font": {"color": "var(--ink)"}},
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "dragmode": False,  # a finger that moves over a chart scrolls the page
    }
    found: dict[str, Any] = json.loads(go.Figure(data=traces, layout={**common, **layout}).to_json())
    return found


def colour(number: int) -> str:
    """Return the colour of the config of a number."""
    return f"var(--series-{number % SERIES})"


def plain(text: str) -> str:
    """Return a text as plotly shows it letter by letter: no tag in a name is one. A long text is cut."""
    return html.escape(short(text, LONGEST), quote=False)


def short(text: str, most: int) -> str:
    """Return a text of at most so many letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
