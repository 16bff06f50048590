"""Write the tables of swap-a-tower.md from the study's comparison.json and timings.json in examples/study."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from marked import filled

from vita_core.comparing.report import report

REPOSITORY = Path(__file__).parent.parent
STUDY = REPOSITORY / "examples" / "study"
PAGE = REPOSITORY / "docs" / "swap-a-tower.md"
SECTIONS = ("Results", "Differences", "Learning rates", "Cost", "How alike the towers are")


def study() -> str:
    """Return swap-a-tower.md with new tables."""
    return filled(PAGE.read_text(encoding="utf-8"), "study", [tables()])


def tables() -> str:
    """Return the verdict and the tables of the report, with headings one level lower. Of the differences, those of the best."""
    comparison, timings = (
        json.loads((STUDY / f"{name}.json").read_text(encoding="utf-8")) for name in ("comparison", "timings")
    )
    top, *found = "\n".join(report(comparison, timings)).split("\n## ")
    sections = {section.partition("\n")[0]: section for section in found}
    kept = [_of_the_best(sections[name], comparison) if name == "Differences" else sections[name] for name in SECTIONS]
    text = "\n".join([top.removeprefix("# Comparison").strip(), *(f"\n### {section.strip()}" for section in kept)])
    return re.sub(r"\n{3,}", "\n\n", text)


def _of_the_best(section: str, comparison: dict[str, Any]) -> str:
    """Return the table of differences with the rows of the config that names most."""
    best = max(comparison["configs"], key=lambda one: one["named"]["mean"])["name"]
    lines = section.split("\n")
    head = [line for line in lines if line.startswith("| ")][:2]
    return "\n".join(line for line in lines if not line.startswith("| ") or line in head or f"| {best} |" in line)
