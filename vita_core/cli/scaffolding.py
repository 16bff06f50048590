"""Write a plugin package from the templates: what ``vita new-tower``, ``new-reduction`` and ``new-projector`` share."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import typer

from vita_core.cli.common import print_json
from vita_core.errors import VitaError
from vita_core.weights.files import whole_directory

__all__ = ["name_argument", "names", "template", "write_plugin"]

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
WHAT = {"tower": "vision tower", "reduction": "reduction", "projector": "projector"}
SAMPLES = {"tower": "my_vit", "reduction": "my_pool", "projector": "my_mlp"}
SHARED = "pyproject.toml"
"""The template that is the same for every kind."""


def name_argument(kind: str) -> Any:
    """Return the argument NAME of the command that writes a plugin of this kind."""
    return typer.Argument(
        metavar="NAME", help=f"The name of the {kind} (`type:` in a config), such as {SAMPLES[kind]}."
    )


def _check_name(name: str, kind: str) -> None:
    """Raise VitaError for a name that cannot be the name of a package, or that another of this kind already has."""
    from vita_core.planning.named import TESTED
    from vita_core.plugins.registry import registry

    if not NAME.fullmatch(name):
        fixed = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789")
        hint = f" Did you mean {fixed!r}?" if NAME.fullmatch(fixed) else ""
        raise VitaError(
            f"not a valid {kind} name: {name!r}.{hint} "
            f"Try: lower-case letters, digits and single underscores, such as {SAMPLES[kind]}"
        )
    taken = [found.owner for found in registry().matching(TESTED[kind], name)]
    if taken:
        raise VitaError(
            f"{kind} already registered: {name!r}, by {taken[0]}. Try: another name; `vita {kind}s` lists those in use"
        )


def names(name: str, kind: str) -> dict[str, str]:
    """Return the values that fill in the templates of a `kind`. Raises VitaError for a name that is wrong or taken."""
    from importlib.metadata import version

    from vita_core.plugins.hookspecs import VITA_API

    _check_name(name, kind)
    release = version("vita-core")
    return {
        "name": name,
        "what": WHAT[kind],
        "module": f"vita_{kind}_{name}",
        "distribution": f"vita-{kind}-{name.replace('_', '-')}",
        kind: "".join(part.capitalize() for part in name.split("_")) + kind.capitalize(),
        "api": str(VITA_API),
        "core": f"vita-core>={release}",
    }


def template(kind: str, name: str) -> str:
    """Return the text of a template."""
    folder = importlib.resources.files("vita_core") / "templates"
    file = (folder if name == SHARED else folder / kind) / f"{name}.template"
    return file.read_text(encoding="utf-8")


def write_plugin(
    kind: str, at: Path | None, values: Mapping[str, str], others: Mapping[str, str], *, json: bool
) -> Path | None:
    """Write the package of a `kind` and say what to do next. Return its directory, or None if `json` says it all.

    `others` are templates that take the place of others. Raises VitaError.
    """
    directory = at or Path(values["distribution"])
    _write(directory, kind, values, others)
    if json:
        print_json({"directory": str(directory), **values})
        return None
    typer.echo(f"wrote {directory}")
    typer.echo(f"next: pip install -e {directory} && vita {kind}s && pytest {directory}")
    return directory / values["module"]


def _write(directory: Path, kind: str, values: Mapping[str, str], others: Mapping[str, str]) -> None:
    """Write every file of the package to `directory`, where they appear only when all are written. Raises VitaError."""
    files = {
        SHARED: SHARED,
        "README.md": "README.md",
        "plugin.py": "$module/__init__.py",
        f"{kind}.py": f"$module/{kind}.py",
        f"test_{kind}.py": f"tests/test_{kind}.py",
    }
    directory = directory.absolute()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise VitaError(f"--at: already exists: {directory}. Try: another directory for --at, or remove this one")
    new = directory / ".new" if directory.exists() else directory  # a shell may be in it, so it must stay the same one
    with whole_directory(new) as made:
        for name, target in files.items():
            text = template(kind, others.get(name, name))
            file = made / Template(target).substitute(values)
            file.parent.mkdir(exist_ok=True)
            file.write_text(Template(text).substitute(values), encoding="utf-8")
    if new != directory:
        for path in new.iterdir():
            path.rename(directory / path.name)
        new.rmdir()
