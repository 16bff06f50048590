"""``vita towers``."""

from __future__ import annotations

from vita_core.cli.common import JsonOption, print_json, print_table


def towers(json: JsonOption = False) -> None:
    """List all registered towers: name, summary, model types, and the distribution that each one comes from."""
    from vita_core.plugins.registry import registry
    from vita_core.plugins.specs import TowerSpec, plain

    rows = [
        {
            "name": tower.spec.name,
            "summary": tower.spec.summary,
            "distribution": tower.owner.distribution,
            "version": tower.owner.version,
            "model_types": list(tower.spec.model_types),
            "defaults": plain(tower.spec.defaults_for(tower.spec.example or {})),
        }
        for tower in registry().all(TowerSpec)
    ]
    if json:
        print_json(rows)
        return
    cells = [
        (row["name"], row["summary"], ", ".join(row["model_types"]), f"{row['distribution']} {row['version']}".strip())
        for row in rows
    ]
    print_table("Vision towers", ["name", "what it is", "model_type", "from"], cells)
