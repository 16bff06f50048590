"""``vita new-tower``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.common import JsonOption
from vita_core.cli.scaffolding import name_argument, names, template, write_plugin
from vita_core.config.configfiles import overridden
from vita_core.errors import VitaError
from vita_core.untrusted.yamlfiles import Document, Mark

__all__ = ["new_tower"]

WRAPPED = {"plugin.py": "wrap_plugin.py", "tower.py": "wrap_tower.py"}
"""The templates that take the place of others for an existing class."""
PLAIN = {
    "blocks": "blocks",
    "replace": "REPLACE by your original implementation's.",
    "first": "replace `Encoder` by your encoder",
}
EXISTING = {"replace": "Use a real one if you have one.", "first": "the class, built from a checkpoint's `config.json`"}


def new_tower(
    name: Annotated[str, name_argument("tower")],
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
    values = names(name, "tower")
    if wrap is None and (arg or blocks or image_size):
        raise VitaError("--arg, --blocks, --image-size: they describe a class to wrap. Try: `--wrap package:Class` too")
    values |= PLAIN if wrap is None else EXISTING
    if wrap is not None:
        values |= existing(wrap, values, arg or (), blocks, image_size)
    module = write_plugin("tower", at, values, {} if wrap is None else WRAPPED, json=json)
    if module is None:
        return
    if wrap is None:
        typer.echo(f"then replace the encoder in {module / 'tower.py'}")
    else:
        typer.echo(f"found {values['seen']}; check the preprocessing in {module / '__init__.py'}")


def existing(
    target: str, values: dict[str, str], arguments: Sequence[str], blocks: str | None, side: int | None
) -> dict[str, str]:
    """Return the values that fill in the templates for the class `target`. Raises VitaError."""
    from vita_core.cli.wrapping import wrapped

    stated = overridden(Document({}, {(): Mark("--arg")}), arguments).data
    return wrapped(target, values, template("tower", "wrap_tower.py"), stated, blocks=blocks, side=side)
