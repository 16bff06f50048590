"""``vita plugins``."""

from __future__ import annotations

from vita_core.cli.common import JsonOption, print_json, print_table


def plugins(json: JsonOption = False) -> None:
    """List all plugins: what they register, and why one failed, is blocked, or has a name that another uses too."""
    from vita_core.plugins.registry import registry

    found = registry()
    rows = [
        {
            "name": plugin.owner.plugin,
            "distribution": plugin.owner.distribution,
            "version": plugin.owner.version,
            "module": plugin.module,
            "status": plugin.status,
            "brings": [spec.name for spec in plugin.specs],
            "reason": plugin.reason,
            "remedy": plugin.remedy,
            "problems": found.problems(plugin),
            "notes": list(plugin.notes),
        }
        for plugin in found.plugins
    ]
    if json:
        print_json(rows)
        return
    cells = []
    for row, plugin in zip(rows, found.plugins, strict=True):
        lines = "\n".join(part for part in (plugin.reason, plugin.remedy, *row["problems"], *plugin.notes) if part)
        cells.append(
            (row["name"], row["status"], ", ".join(spec.name for spec in plugin.specs), str(plugin.owner), lines)
        )
    print_table("Plugins", ["name", "status", "registers", "from", "problem, and what to do"], cells)
