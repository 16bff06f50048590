"""Write ``comparison.html`` from the files of a comparison."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vita_core.comparing.page import tables
from vita_core.comparing.page.charts import charts
from vita_core.comparing.records import AGAIN, read_written, showing
from vita_core.comparing.report import MARK
from vita_core.comparing.statistics import check_installed
from vita_core.weights.files import sha256, write_text

__all__ = ["write_page"]

HERE = Path(__file__).parent
KINDS = {".jpg": "image/jpeg", ".png": "image/png"}


@dataclass(frozen=True)
class Answer:
    """What a config answered about a picture: whether it has the name, and the map of its tokens as a ``data:`` address."""

    config: str
    text: str
    right: bool
    map: str | None


@dataclass(frozen=True)
class Shown:
    """A held-out picture, as a ``data:`` address, with its caption and the answers about it."""

    name: str
    caption: str
    picture: str | None
    answers: Sequence[Answer]


def write_page(folder: Path, *, new: bool = False) -> Path:
    """Write ``comparison.html`` from ``comparison.json`` in a folder, and return its path.

    ``timings.json`` and the pictures in ``page/`` are shown where they exist. Equal files give equal bytes. Raises VitaError
    if a package of the extra `compare` is not installed, and for a ``comparison.json`` that cannot be shown, unless it is `new`
    (see `vita_core.comparing.records.showing`).
    """
    check_installed()  # before the import, which would raise a traceback
    from jinja2 import UndefinedError

    source = folder / "comparison.json"
    comparison = read_written(source, AGAIN)
    with showing(source, UndefinedError, new=new):
        text = _rendered(_values(comparison, folder))
    write_text(folder / "comparison.html", text)
    return folder / "comparison.html"


def _values(comparison: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the template shows."""
    times = folder / "timings.json"
    timings = read_written(times, AGAIN) if times.is_file() else {}
    labels = {one["name"]: f"{one['name']} {MARK}" if one["unequal"] else one["name"] for one in comparison["configs"]}
    drawn = charts(comparison, timings, labels)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    plotly = _plotly() if drawn else ""
    return {
        "comparison": comparison,
        "labels": labels,
        "mark": MARK,
        "failed": [one for one in comparison["configs"] if one["failed"] is not None],
        "results": tables.results(comparison, timings, labels),
        "differences": tables.differences(comparison["pairs"], labels),
        "benchmarks": tables.benchmarks(comparison, labels),
        "tuning": tables.tuning(comparison, labels),
        "likeness": tables.likeness(comparison.get("cka", {"towers": []}), labels),
        "charts": drawn,
        "figures": {chart.id: chart.figure for section in drawn.values() for chart in section},
        "shown": [*_shown(comparison, labels, folder / "page")],
        "digest": sha256(folder / "comparison.json"),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "scripts": [text for text in (plotly, script) if text],
        "allowed": [_allowed(text) for text in (plotly, script) if text],
    }


def _shown(comparison: Mapping[str, Any], labels: Mapping[str, str], folder: Path) -> Iterator[Shown]:
    for row in comparison["examples"]:
        maps = row.get("maps", {})
        answers = [
            Answer(label, row["answers"][name], row["named"][name], _embedded(folder, maps.get(name)))
            for name, label in labels.items()
            if name in row["answers"]
        ]
        yield Shown(row["image"], row["caption"], _embedded(folder, row.get("thumbnail")), answers)


def _embedded(folder: Path, name: str | None) -> str | None:
    """Return a picture in `folder` as a ``data:`` address, or None if there is none of this name."""
    if name is None or Path(name).name != name or not (file := folder / name).is_file():
        return None
    return f"data:{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _allowed(script: str) -> str:
    """Return what allows a script in the page's content security policy: no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _rendered(values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["yaml"] = lambda value: yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    return made.get_template("page.html").render(values)
