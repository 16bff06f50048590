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
        str, typer.Argument(metavar="DIR", help="A VITA checkpoint, or a config or saved model that was made from one.")
    ],
    layout: Annotated[
        str, typer.Option(metavar="vita", help="The checkpoint layout to write. VITA's is the only one.")
    ] = "vita",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The new directory. Default: DIR-LAYOUT, next to DIR.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The VITA checkpoint that the model came from, if it was moved.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio", help="Also copy the audio tensors of the checkpoint.")] = False,
    tower_weights: TowerWeightsOption = None,
    model_base: Annotated[
        str | None, typer.Option("--model-base", metavar="DIR", help="The model that a LoRA adapter was trained on.")
    ] = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Write a model in the layout of the VITA checkpoint that it came from: its keys, with the model's values."""
    from vita_core.errors import ConfigError, nearest
    from vita_core.models.saving import is_saved, saved_from
    from vita_core.planning.resolution import resolve

    if layout != "vita":
        raise ConfigError(f"--layout: cannot be written: {layout!r}.{nearest(layout, ['vita'])} Try: `--layout vita`")
    place = Path(os.path.abspath(Path(model).expanduser()))  # noqa: PTH100  # resolve() would follow the user's links
    target = place.with_name(f"{place.stem if place.is_file() else place.name}-{layout}") if out is None else out
    if target.exists():
        raise ConfigError(f"--out: already exists: {target}. Try: another directory for --out, or move it away")
    if is_saved(place):
        source = saved_from(place, source)
    given = ["device=cpu", *(overrides or ())]
    resolved = resolve(model, given, tower_weights=tower_weights, model_base=model_base)
    exported = open_model(resolved).export(target, layout=layout, source=source, audio=audio)
    if json:
        print_json(exported.to_dict())
    else:
        _print(exported)


def _print(exported: Exported) -> None:
    lines = [
        f"{exported.layout} layout of {exported.source}: {exported.unchanged} tensors unchanged, {exported.changed} changed, "
        f"{exported.copied} copied that the model did not load"
    ]
    if exported.audio_skipped:
        lines.append(f"vision only: {exported.audio_skipped} audio tensors skipped (use --audio to copy them)")
    if exported.audio:
        lines.append(f"{exported.audio} audio tensors copied")
    lines += [f"copied: {', '.join(exported.files)}", *exported.notes]
    typer.echo("\n".join([*lines, f"wrote {exported.out}: {', '.join(exported.weights)}"]))
