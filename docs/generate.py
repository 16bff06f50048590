"""Write what comes from the code: reference.md, and tables of reliability.md, architecture.md, combine.md, swap-a-tower.md.

With ``--check``, write nothing; exit with an error if a page differs from the code. Of reliability.md, whose rows take a
collection of tests, the tests check that it is up to date.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

import typer
from combining import combine
from docstrings import field_items
from drawing import draw
from error_page import errors
from marked import filled
from matrix import reliability
from reliability import collected
from rooms import Room, rooms, table, without_torch
from study import study

from vita_core.cli import app
from vita_core.cli.commands import BUILTIN
from vita_core.cli.exits import MEANINGS
from vita_core.config import schema
from vita_core.plugins import hookspecs
from vita_core.plugins.discovery import HOOKS
from vita_core.plugins.registry import CORE, registry
from vita_core.plugins.specs import LLMShape, LLMSpec, ProjectorSpec, Shape, Stage, TowerSpec
from vita_core.testing import KIT

HERE = Path(__file__).parent
SECTIONS = [
    "TowerConfig",
    "ProjectorConfig",
    "LLMConfig",
    "ImagesConfig",
    "PromptConfig",
    "GenerationConfig",
    "DataSetConfig",
    "TrainingConfig",
]


def commands() -> list[str]:
    lines = ["## Commands", "", "| command | what it does |", "| --- | --- |"]
    group = typer.main.get_command(app)
    context = typer.Context(group)
    built_in = {name: group.get_command(context, name) for name in BUILTIN}
    for name, command in built_in.items():
        lines.append(f"| `vita {name}` | {command.short_help} |")
    for name, listed in built_in.items():
        opened = listed.opened()
        nested = {f"{name} {sub}": command for sub, command in getattr(opened, "commands", {}).items()}
        if nested:
            lines += ["", f"### vita {name}", "", inspect.cleandoc(opened.help)]
        for full, command in (nested or {name: opened}).items():
            lines += [
                "",
                f"###{'#' * bool(nested)} vita {full}",
                "",
                inspect.cleandoc(command.help),
                "",
                *parameters(command),
            ]
    return lines


def exit_codes() -> list[str]:
    lines = ["## Exit codes", "", "All commands have the same ones.", "", "| code | meaning |", "| --- | --- |"]
    return [*lines, *(f"| {code} | {meaning} |" for code, meaning in MEANINGS.items())]


def parameters(command: Any) -> list[str]:
    lines = ["| parameter | meaning |", "| --- | --- |"]
    for parameter in command.params:
        flags = (
            ", ".join(parameter.opts)
            if parameter.param_type_name == "option"
            else (parameter.metavar or parameter.name)
        )
        lines.append(f"| `{flags}` | {getattr(parameter, 'help', '') or ''} |")
    return lines


def specs() -> list[str]:
    lines = ["## Built in"]
    for kind, title in ((TowerSpec, "Towers"), (ProjectorSpec, "Projectors"), (LLMSpec, "Language models")):
        lines += ["", f"### {title}", "", "| type | what it is |", "| --- | --- |"]
        owners = {"vita-core", CORE.distribution}
        lines += [
            f"| `{r.spec.name}` | {r.spec.summary} |" for r in registry().all(kind) if r.owner.distribution in owners
        ]
    return lines


def hooks() -> list[str]:
    lines = [
        "## Hooks",
        "",
        "A plugin is a module in the entry-point group `vita`. It states `vita_api` and implements some of these hooks,",
        "marked `@hookimpl`.",
        "",
    ]
    for name in HOOKS:
        function = getattr(hookspecs, name)
        signature = str(inspect.signature(function)).replace("'", "")  # annotations are strings
        lines += [f"- `{name}{signature}`: {inspect.getdoc(function)}"]
    for spec in (*HOOKS.values(), Shape, Stage, LLMShape):
        lines += ["", f"### {spec.__name__}", ""]
        lines += field_items(inspect.getdoc(spec) or "").splitlines()
        lines += ["", "| field | type | default |", "| --- | --- | --- |"]
        lines += [
            f"| `{field.name}` | `{escaped(field.type)}` | {default(field)} |" for field in dataclasses.fields(spec)
        ]
    return lines


def escaped(text: object) -> str:
    return str(text).replace("|", "\\|")


def default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
        return f"`{value.__name__}`" if callable(value) else f"`{value!r}`"
    return "required" if field.default_factory is dataclasses.MISSING else f"`{field.default_factory()!r}`"


def checks() -> list[str]:
    lines = [
        "## Contracts",
        "",
        "`vita check` and pytest (`--vita-tower`, `--vita-reduction`, `--vita-projector`) check these contracts.",
    ]
    for kind, (found, _) in KIT.items():
        lines += ["", f"### Of a {kind}", "", "| check | contract | how to meet it |", "| --- | --- | --- |"]
        lines += [f"| `{check.name}` | {check.contract} | {check.remedy} |" for check in found]
    return lines


def keys() -> list[str]:
    lines = ["## Config keys"]
    for section in SECTIONS:
        model = getattr(schema, section)
        lines += [
            "",
            f"### {section.removesuffix('Config').lower()}",
            "",
            inspect.getdoc(model) or "",
            "",
            "| key | default |",
            "| --- | --- |",
        ]
        for name, field in model.model_fields.items():
            default = (
                "required"
                if field.is_required()
                else repr(field.get_default(call_default_factory=True, validated_data={}))
            )
            lines.append(f"| `{name}` | `{default}` |")
    return lines


def reference() -> str:
    head = ["# Reference", "", "`make docs` writes this page from the code. A test fails if they differ.", ""]
    return "\n".join(
        [*head, *commands(), "", *exit_codes(), "", *specs(), "", *hooks(), "", *checks(), "", *keys(), ""]
    )


def architecture(found: list[Room]) -> str:
    """Return architecture.md with a new table of packages."""
    page = (HERE / "architecture.md").read_text(encoding="utf-8")
    return filled(page, "rooms", table(found))


def main() -> None:
    found = rooms()
    texts = {
        "reference.md": reference(),
        "rooms.svg": draw(found, without_torch()),
        "architecture.md": architecture(found),
        "combine.md": combine(),
        "swap-a-tower.md": study(),
        "errors.md": errors(),
    }
    if "--check" not in sys.argv:
        texts["reliability.md"] = reliability((HERE / "reliability.md").read_text(encoding="utf-8"), collected())
    for name, text in texts.items():
        file = HERE / name
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/{name} differs from the code. Try: `make docs`")


main()
