"""Print what is found, as it is found. Needs no library, so that it works where none is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from vita_core.diagnosing.cache import cache, disk
from vita_core.diagnosing.devices import probed
from vita_core.diagnosing.findings import Finding, described, guarded
from vita_core.diagnosing.hub import hub
from vita_core.diagnosing.plugins import plugins
from vita_core.diagnosing.versions import libraries, module_of, needed, python

__all__ = ["examine", "report", "without_libraries"]


def examine(*, online: bool = False) -> Iterator[Finding]:
    """Yield everything that is found, what is quick first. Only with `online`, the hub is asked."""
    yield from guarded("python", python)
    yield from guarded("library", libraries)
    yield from guarded("plugin", plugins)
    yield from guarded("cache", cache)
    yield from guarded("disk", disk)
    if online:
        yield from guarded("hub", hub)
    yield from guarded("device", lambda: probed(_modules(), _step))


def _modules() -> list[str]:
    """Return the modules to import: torch first, because most others import it."""
    try:
        return sorted((module_of(requirement) for requirement in needed()), key=lambda name: name != "torch")
    except Exception:  # there is a finding of it already
        return ["torch"]


def _step(step: str) -> None:
    """Show a step on a terminal: the imports take seconds."""
    if sys.stderr.isatty():
        print(f"\r\033[K{step} ...", end="", file=sys.stderr, flush=True)


def report(*, as_json: bool = False, online: bool = False) -> bool:
    """Print the findings, as lines or as JSON. Return whether there is no problem."""
    from vita_core.masking import masked, masked_data

    found = []
    for finding in examine(online=online):
        found.append(finding)
        if not as_json:
            clear = "\r\033[K" if sys.stderr.isatty() else ""
            print(clear, end="", file=sys.stderr, flush=True)
            print(masked(_line(finding)), flush=True)
    problems = sum(finding.status == "problem" for finding in found)
    if as_json:
        whole = {"problems": problems, "findings": [asdict(finding) for finding in found]}
        print(json.dumps(masked_data(whole), indent=2))
    else:
        print(f"{problems} problem{'s' * (problems != 1)}" if problems else "no problem was found")
    return not problems


def without_libraries(arguments: Sequence[str], error: ImportError) -> int:
    """Run ``vita doctor`` where the command line itself cannot be imported, because of `error`. Return the exit code."""
    if [*arguments[:1]] != ["doctor"]:
        print(f"error: vita cannot start: {described(error)}. Try: `vita doctor`", file=sys.stderr)
        return 2
    return 0 if report(as_json="--json" in arguments, online="--online" in arguments) else 3


def _line(finding: Finding) -> str:
    says = " ".join(f"{finding.name}: {finding.says}".split())
    advice = f"\n{'':17} Try: {finding.cure}" if finding.cure else ""
    return f"{finding.status:8} {finding.area:8} {says}{advice}"
