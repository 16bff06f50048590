"""``vita new-tower``."""

from __future__ import annotations

import importlib.resources
import re
import shutil
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, print_json
from vita_core.errors import VitaError

__all__ = ["new_tower"]

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "plugin.py": "$module/__init__.py",
    "tower.py": "$module/tower.py",
    "test_tower.py": "tests/test_tower.py",
}
"""Template -> the file it becomes."""


def new_tower(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What a config writes after `type:`, such as my_vit.")],
    at: Annotated[
        Path | None,
        typer.Option(help="The directory to make (or an empty one); by default ./vita-tower-NAME.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package with a small tower that works, to be replaced by your own."""
    check_name(name)
    values = names(name)
    directory = at or Path(values["distribution"])
    write_package(directory, values)
    if json:
        print_json({"directory": str(directory), **values})
        return
    typer.echo(f"wrote {directory}")
    typer.echo(f"next: pip install -e {directory} && vita towers && pytest {directory}")
    typer.echo(f"then replace the encoder in {directory / values['module'] / 'tower.py'}")


def check_name(name: str) -> None:
    """Raises VitaError for a name that no package can have, or that a tower has already."""
    from vita_core.plugins.registry import registry
    from vita_core.plugins.specs import TowerSpec

    if not NAME.fullmatch(name):
        mended = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789")
        hint = f" Did you mean {mended!r}?" if NAME.fullmatch(mended) else ""
        raise VitaError(
            f"{name!r} is no tower name: lower-case letters, digits and single underscores, as my_vit.{hint}"
        )
    taken = [r.owner for r in registry().all(TowerSpec) if r.spec.name == name]
    if taken:
        raise VitaError(f"tower {name!r} is registered already, by {taken[0]}; choose another name (see `vita towers`)")


def names(name: str) -> dict[str, str]:
    """What the templates call things."""
    from importlib.metadata import version

    from vita_core.plugins.hookspecs import VITA_API

    release = version("vita-core")
    return {
        "name": name,
        "module": f"vita_tower_{name}",
        "distribution": f"vita-tower-{name.replace('_', '-')}",
        "tower": "".join(part.capitalize() for part in name.split("_")) + "Tower",
        "api": str(VITA_API),
        "core": f"vita-core>={release}",
    }


def write_package(directory: Path, values: dict[str, str]) -> None:
    """Render every template below `directory`, which appears whole or not at all. Raises VitaError."""
    directory = directory.absolute()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise VitaError(f"{directory} exists already; give another place with --at, or remove it")
    templates = importlib.resources.files("vita_core") / "templates" / "tower"
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)  # one may be left of a killed run
        for template, target in FILES.items():
            text = (templates / f"{template}.template").read_text(encoding="utf-8")
            file = partial / Template(target).substitute(values)
            file.parent.mkdir(exist_ok=True)
            file.write_text(Template(text).substitute(values), encoding="utf-8")
        partial.replace(directory)
    except OSError as error:
        raise VitaError(f"cannot write {directory}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
