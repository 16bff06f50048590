"""``vita reductions`` and ``vita projectors``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vita_core.cli.common import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from vita_core.plugins.registry import Registered


def projectors(json: JsonOption = False) -> None:
    """List all registered projectors: name, summary, paper, options, and the distribution that each one comes from."""
    from vita_core.plugins.registry import registry
    from vita_core.plugins.specs import ProjectorSpec

    _list(
        "Projectors", registry().all(ProjectorSpec), lambda spec: {"changes_tokens": spec.tokens is not None}, json=json
    )


def reductions(json: JsonOption = False) -> None:
    """List all registered reductions: name, summary, paper, options, and the distribution that each one comes from.

    A trainable one has weights, a spatial one needs the grid of the tokens, and one that runs inside takes `blocks: [...]`.
    """
    from vita_core.plugins.reductions import ReductionSpec
    from vita_core.plugins.registry import registry

    def facts(spec: ReductionSpec) -> dict[str, bool]:
        return {"trainable": spec.trainable, "spatial": spec.spatial, "inside": spec.inside is not None}

    _list("Reductions", registry().all(ReductionSpec), facts, json=json)


def _list(title: str, found: list[Registered[Any]], more: Any, *, json: bool) -> None:
    """Print what is registered of a kind. `more` returns what only specs of this kind state: name -> true or false."""
    from vita_core.plugins.registry import version_of

    rows = [
        {
            "name": part.spec.name,
            "summary": part.spec.summary,
            "paper": part.spec.paper,
            **more(part.spec),
            "options": _options(part),
            "distribution": part.owner.distribution,
            "version": version_of(part.owner),
        }
        for part in found
    ]
    if json:
        print_json(rows)
        return
    facts = [key for key in rows[0] if isinstance(rows[0][key], bool)] if rows else []
    cells = [
        (
            row["name"],
            row["summary"],
            *("yes" if row[fact] else "no" for fact in facts),
            ", ".join(key if default is REQUIRED else f"{key}={default}" for key, default in row["options"].items()),
            row["paper"],
            f"{row['distribution']} {row['version']}".strip(),
        )
        for row in rows
    ]
    print_table(
        title, ["name", "what it is", *(fact.replace("_", " ") for fact in facts), "options", "paper", "from"], cells
    )


REQUIRED = "required"
"""Stands for the default of an option that must be given."""


def _options(part: Registered[Any]) -> dict[str, Any]:
    """Return the default of each option, and the reason on stderr if a plugin's options cannot be imported."""
    from vita_core.errors import PluginError
    from vita_core.plugins.registry import import_object

    if part.spec.options is None:
        return {}
    try:
        model = import_object(part.spec.options, requires=part.spec.requires, owner=part.owner)
    except PluginError as error:
        typer.echo(f"warning: {error}", err=True)
        return {}
    fields = model.model_fields.items()
    return {
        key: REQUIRED if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        for key, field in fields
    }
