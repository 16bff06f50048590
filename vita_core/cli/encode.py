"""``vita encode``."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.common import (
    CONFIG_HELP,
    DeviceOption,
    JsonOption,
    SetOption,
    TowerOption,
    WeightsOption,
    overridden,
    place_of,
    print_json,
)
from vita_core.cli.timing import Phases

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vita_core.config.schema import ImagesConfig
    from vita_core.planning.resolution import Resolved
    from vita_core.towers.tower import BaseVisionTower

BATCH = 8
"""How many pictures the tower encodes at once."""
SHOWN = 336
"""The side of a drawn picture, in pixels."""
ConfigAndPictures = Annotated[
    list[str],
    typer.Argument(
        metavar="[CONFIG] PICTURE...",
        help=f"{CONFIG_HELP} After it, one or more pictures. With --weights, only pictures.",
    ),
]


def encode(
    arguments: ConfigAndPictures,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    picture_map: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", help="Also write a PNG with each picture and its tokens, coloured by PCA."),
    ] = None,
    tower: TowerOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    timings: Annotated[bool, typer.Option("--timings", help="Print the time of each phase.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the tower's tokens of each picture to a safetensors file. No language model is needed.

    The keys are the paths of the pictures, as typed. Each tensor has the shape (tiles, N, C).
    """
    from vita_core.errors import ConfigError
    from vita_core.planning.resolution import resolve

    phases = Phases()
    phases.end("start, command line")
    config = arguments.pop(0) if tower is None and weights is None else None
    place, pictures = place_of(config, tower, weights), [Path(argument) for argument in arguments]
    if not pictures:
        raise ConfigError("no picture is given. Try: `vita encode CONFIG PICTURE --out OUT.safetensors`")
    _check_file("--out", out, ".safetensors")
    _check_file("--picture-map", picture_map, ".png")
    resolved = resolve(place, overridden(overrides, device), tower_only=True)
    phases.end("config")
    built = _built(resolved, pictures, phases)
    features, grids, shown = _encoded(built, resolved.config.images, pictures, phases, draw=picture_map is not None)
    written = {name: "x".join(map(str, grid)) for name, grid in grids.items()}
    native = built.shape.native is not None
    grid = {"grids": dumps(written)} if native else {"grid": "x".join(map(str, built.grid))}
    metadata = {"tower": resolved.tower.spec.name, "weights": resolved.tower.source.weights, **grid}
    drawn = draw_map(shown, features, grids) if shown else None
    _write(features, metadata, out, drawn, picture_map)
    phases.end("written")
    if json:
        rows = [{"picture": name, "shape": [*made.shape], "grid": written[name]} for name, made in features.items()]
        measured = {"timings": phases.seconds} if timings else {}
        print_json({"out": str(out), "picture_map": picture_map, **metadata, "pictures": rows, **measured})
        return
    for line in phases.lines(until="first feature") if timings else ():
        typer.echo(line)
    for name, made in features.items():
        typer.echo(f"{name}: {' x '.join(map(str, made.shape))}" + (f", grid {written[name]}" if native else ""))
    typer.echo(f"wrote {out}")


def _check_file(option: str, path: Path | None, suffix: str) -> None:
    """Raise ConfigError if the `path` of an option does not end in `suffix`, or is a directory."""
    from vita_core.errors import ConfigError

    if path is not None and (path.suffix.lower() != suffix or path.is_dir()):
        raise ConfigError(f"{option}: must be a file that ends in {suffix}: {path}. Try: {path.stem}{suffix}")


def _built(resolved: Resolved, pictures: list[Path], phases: Phases) -> BaseVisionTower:
    """Check that the pictures exist, then build the tower and load its weights. Raises VitaError."""
    from vita_core.pixels.images import check_file
    from vita_core.towers.devices import pick_device
    from vita_core.towers.tower import build_resolved

    for path in pictures:
        check_file(path)
    phases.end("torch")
    settings = resolved.tower.settings.model_copy(update={"delay_load": True})
    tower = build_resolved(replace(resolved.tower, settings=settings), pick_device(resolved.config.device))
    phases.end("the encoder's library")
    tower.load_model()
    phases.end("weights")
    return tower


def _encoded(
    tower: BaseVisionTower, images: ImagesConfig, pictures: list[Path], phases: Phases, *, draw: bool
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]], dict[str, Image.Image]]:
    """Return the tokens (tiles, N, C) and the grid of each picture by its path.

    With `draw`, also return the pictures at `SHOWN` pixels.
    """
    import torch

    from vita_core.models.pictures import Prepared, encoded, prepare
    from vita_core.pixels.images import MAX_PIXELS, open_picture
    from vita_core.pixels.prefetching import prefetched

    features: dict[str, Tensor] = {}
    grids: dict[str, tuple[int, ...]] = {}
    shown: dict[str, Image.Image] = {}

    def read(path: Path) -> tuple[str, Prepared]:
        opened = open_picture(path, max_pixels=images.max_pixels or MAX_PIXELS)
        if draw:
            shown[str(path)] = opened.resize((SHOWN, SHOWN))
        return str(path), prepare(tower, images, opened).copied(tower.device)

    with prefetched(dict.fromkeys(pictures), read, batch=BATCH) as batches, torch.inference_mode():
        for batch in batches:
            if not features:
                phases.end("first pixels")
            tokens = encoded(tower, [picture.pixels for _, picture in batch])
            if not features:
                phases.end("first feature")
            features |= {
                name: found.cpu().clone(memory_format=torch.contiguous_format)
                for (name, _), found in zip(batch, tokens, strict=True)
            }
            grids |= {name: tower.resolved.grid_of(*picture.pixels.shape[-2:]) for name, picture in batch}
    phases.end("further pictures")
    return features, grids, shown


def _write(
    features: dict[str, Tensor],
    metadata: dict[str, str],
    out: Path,
    drawn: Image.Image | None,
    picture_map: Path | None,
) -> None:
    """Write the features, and the picture map if it was `drawn`. Either both files appear or none."""
    from safetensors.torch import save_file

    from vita_core.weights.files import write_whole

    written = {_utf8(name): tokens for name, tokens in features.items()}

    def write(path: Path) -> None:
        save_file(written, path, metadata=metadata)
        if drawn is not None and picture_map is not None:
            write_whole(picture_map, lambda path: drawn.save(path, format="PNG"))

    write_whole(out, write)


def _utf8(name: str) -> str:
    """Return a path as a key of a safetensors file, which must be UTF-8: other bytes become ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def draw_map(
    pictures: dict[str, Image.Image], features: dict[str, Tensor], grids: dict[str, tuple[int, ...]], side: int = SHOWN
) -> Image.Image:
    """Draw each picture beside its features (tiles, N, C), whose first three principal components are red, green and blue.

    The components are computed over all pictures. Pictures are resized to squares. With tiles, the tokens of the last one
    (the thumbnail) are drawn.
    """
    import torch
    from PIL import Image

    tokens = [tiles[-1] for tiles in features.values()]
    flat = torch.cat(tokens).float()
    centred = flat - flat.mean(0)
    count = min(3, *centred.shape)
    _, _, directions = torch.pca_lowrank(centred, q=count, center=False)
    colours = torch.zeros(len(flat), 3)
    colours[:, :count] = centred @ directions[:, :count]
    low, high = colours.amin(0), colours.amax(0)
    levels = ((colours - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
    sheet = Image.new("RGB", (2 * side, side * len(pictures)), (255, 255, 255))
    parts = levels.split([len(part) for part in tokens])
    for index, (name, part) in enumerate(zip(features, parts, strict=True)):
        sheet.paste(pictures[name].resize((side, side)), (0, index * side))
        drawn = Image.fromarray(part.reshape(*grids[name], 3).numpy())
        sheet.paste(drawn.resize((side, side), Image.Resampling.NEAREST), (side, index * side))
    return sheet
