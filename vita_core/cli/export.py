"""``vita export``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.asking import TowerWeightsOption
from vita_core.cli.common import JsonOption, SetOption, open_model, print_json

if TYPE_CHECKING:
    from vita_core.models.exporting import Exported


def export(
    model: Annotated[
        str, typer.Argument(metavar="DIR", help="A VITA checkpoint, or a config or directory of a model made from one.")
    ],
    layout: Annotated[str, typer.Option(metavar="vita", help="The layout to write. There is only VITA's.")] = "vita",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write it. Default: DIR-LAYOUT, beside DIR.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The VITA checkpoint the model came from, where it was moved.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio", help="Copy the source's audio half too.")] = False,
    tower_weights: TowerWeightsOption = None,
    model_base: Annotated[
        str | None, typer.Option("--model-base", metavar="DIR", help="The base of a LoRA adapter.")
    ] = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Write a model back in the layout of the VITA checkpoint it came from, with its keys and the model's values."""
    from vita_core.errors import ConfigError, nearest
    from vita_core.models.saving import is_saved, saved_from
    from vita_core.planning.resolution import resolve

    if layout != "vita":
        raise ConfigError(f"--layout {layout!r} cannot be written; there is only 'vita'.{nearest(layout, ['vita'])}")
    place = Path(os.path.abspath(Path(model).expanduser()))  # noqa: PTH100  # a link is kept as it was written
    target = place.with_name(f"{place.stem if place.is_file() else place.name}-{layout}") if out is None else out
    if target.exists():
        raise ConfigError(f"{target} is there already; move it away or choose another name with --out")
    if is_saved(place):
        source = saved_from(place, source)
    given = ["device=cpu", *(overrides or ())]
    resolved = resolve(model, given, tower_weights=tower_weights, model_base=model_base)
    exported = open_model(resolved).export(target, layout=layout, source=source, audio=audio)
    if json:
        print_json(exported.to_dict())
    else:
        _tell(exported)


def _tell(exported: Exported) -> None:
    lines = [
        f"{exported.layout} layout of {exported.source}: {exported.unchanged} tensors unchanged, {exported.changed} changed, "
        f"{exported.copied} that were not loaded copied from it"
    ]
    if exported.audio_skipped:
        lines.append(f"vision only: {exported.audio_skipped} audio tensors skipped (--audio copies them)")
    if exported.audio:
        lines.append(f"{exported.audio} audio tensors copied")
    lines += [f"copied: {', '.join(exported.files)}", *exported.notes]
    typer.echo("\n".join([*lines, f"wrote {exported.out}: {', '.join(exported.weights)}"]))
