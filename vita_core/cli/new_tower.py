"""``vita new-tower``."""

from __future__ import annotations

import importlib.resources
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from vita_core.cli.common import JsonOption, print_json
from vita_core.config.configfiles import overridden
from vita_core.config.yamlfile import Document, Mark
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
"""The templates, and the files that they become."""
WRAPPED = {"plugin.py": "wrap_plugin.py", "tower.py": "wrap_tower.py"}
"""The templates that take the place of others for an existing class."""
PLAIN = {
    "blocks": "blocks",
    "replace": "REPLACE by your original implementation's.",
    "first": "replace `Encoder` by your encoder",
}
EXISTING = {"replace": "Use a real one if you have one.", "first": "the class, built from a checkpoint's `config.json`"}


def new_tower(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the tower (`type:` in a config), such as my_vit.")
    ],
    at: Annotated[
        Path | None,
        typer.Option(help="The directory, new or empty. Default: ./vita-tower-NAME.", show_default=False),
    ] = None,
    wrap: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE:CLASS", help="An encoder that exists: a subclass of nn.Module with a grid of patches."
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="With --wrap: an argument of the class, for a small encoder. Repeatable."
        ),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(metavar="PATH", help="With --wrap: the list of blocks, such as encoder.layers.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="With --wrap: the side of the pictures, if the class has no argument for it."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a plugin package with a small working tower, whose encoder you replace by your own, or for an existing class."""
    check_name(name)
    values = names(name)
    if wrap is None and (arg or blocks or image_size):
        raise VitaError("--arg, --blocks, --image-size: they describe a class to wrap. Try: `--wrap package:Class` too")
    values |= PLAIN if wrap is None else EXISTING
    if wrap is not None:
        values |= existing(wrap, values, arg or (), blocks, image_size)
    directory = at or Path(values["distribution"])
    write_package(directory, values, {} if wrap is None else WRAPPED)
    if json:
        print_json({"directory": str(directory), **values})
        return
    typer.echo(f"wrote {directory}")
    typer.echo(f"next: pip install -e {directory} && vita towers && pytest {directory}")
    if wrap is None:
        typer.echo(f"then replace the encoder in {directory / values['module'] / 'tower.py'}")
    else:
        typer.echo(f"found {values['seen']}; check the preprocessing in {directory / values['module'] / '__init__.py'}")


def existing(
    target: str, values: dict[str, str], arguments: Sequence[str], blocks: str | None, side: int | None
) -> dict[str, str]:
    """Return the values that fill in the templates for the class `target`. Raises VitaError."""
    from vita_core.cli.wrapping import wrapped

    stated = overridden(Document({}, {(): Mark("--arg")}), arguments).data
    return wrapped(target, values, template("wrap_tower.py"), stated, blocks=blocks, side=side)


def check_name(name: str) -> None:
    """Raise VitaError for a name that cannot be the name of a package, or that a tower already has."""
    from vita_core.plugins.registry import registry
    from vita_core.plugins.specs import TowerSpec

    if not NAME.fullmatch(name):
        fixed = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789")
        hint = f" Did you mean {fixed!r}?" if NAME.fullmatch(fixed) else ""
        raise VitaError(
            f"not a valid tower name: {name!r}.{hint} "
            "Try: lower-case letters, digits and single underscores, such as my_vit"
        )
    taken = [r.owner for r in registry().all(TowerSpec) if r.spec.name == name]
    if taken:
        raise VitaError(
            f"tower already registered: {name!r}, by {taken[0]}. Try: another name; `vita towers` lists those in use"
        )


def names(name: str) -> dict[str, str]:
    """Return the values that fill in the templates."""
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


def template(name: str) -> str:
    """Return the text of a template."""
    file = importlib.resources.files("vita_core") / "templates" / "tower" / f"{name}.template"
    return file.read_text(encoding="utf-8")


def write_package(directory: Path, values: dict[str, str], others: dict[str, str]) -> None:
    """Write every file of the package to `directory`, which appears only when it is complete. Raises VitaError.

    `others` are templates that take the place of others.
    """
    directory = directory.absolute()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise VitaError(f"--at: already exists: {directory}. Try: another directory for --at, or remove this one")
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)  # it may exist if an earlier run was killed
        for name, target in FILES.items():
            text = template(others.get(name, name))
            file = partial / Template(target).substitute(values)
            file.parent.mkdir(exist_ok=True)
            file.write_text(Template(text).substitute(values), encoding="utf-8")
        partial.replace(directory)
    except OSError as error:
        raise VitaError(
            f"cannot write {directory}: {error.strerror or error}. Try: another directory for --at"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
