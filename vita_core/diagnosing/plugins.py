"""Find which plugins work, and why the others do not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from vita_core import interrupts
from vita_core.diagnosing.findings import Finding, Status

__all__ = ["plugins"]


def plugins() -> Iterator[Finding]:
    """Load the plugins as every command does, and then those that bring commands of their own."""
    from vita_core.errors import split_advice
    from vita_core.plugins.registry import registry

    found = registry()
    for plugin in found.plugins:
        name = f"{plugin.owner.plugin} of {plugin.owner}"
        if plugin.status != "loaded":
            failed: Status = "problem" if plugin.status == "failed" else "ok"
            yield Finding("plugin", name, failed, f"{plugin.status}: {plugin.reason}", plugin.remedy)
            continue
        told: list[tuple[tuple[str, str], Status]] = [
            (split_advice(line), "problem") for line in found.problems(plugin)
        ]
        told += [(split_advice(line), "note") for line in plugin.notes]
        for (wrong, cure), status in told:
            yield Finding("plugin", name, status, wrong, cure)
        if not told:
            yield Finding(
                "plugin", name, "ok", f"registers {', '.join(spec.name for spec in plugin.specs) or 'nothing'}"
            )
    yield from _commands()


def _commands() -> Iterator[Finding]:
    from vita_core.plugins.discovery import describe, remedy
    from vita_core.plugins.installed import COMMANDS_GROUP, installed
    from vita_core.plugins.registry import selection

    for point in installed(COMMANDS_GROUP)[0]:
        name = f"command {point.name} of {point.owner}"
        if reason := selection().blocked(point.owner):
            yield Finding("plugin", name, "ok", f"blocked: {reason}")
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # as in load_plugin
                point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            interrupts.raise_if_asked()
            yield Finding(
                "plugin", name, "problem", f"failed: {describe(error)}", remedy(error, point.owner, point.value)
            )
        else:
            yield Finding("plugin", name, "ok", "loaded")
