"""``vita encode``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
from vita_core.cli.maps import SIDE, draw_maps
from vita_core.cli.timing import Phases
from vita_core.cli.videos import MaxFramesOption
from vita_core.models.videos import UNTILED, open_video

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vita_core.config.schema import ImagesConfig
    from vita_core.pixels.video import Clip
    from vita_core.planning.resolution import Place, Resolved
    from vita_core.towers.tower import BaseVisionTower

BATCH = 8
"""How many pictures the tower encodes at once."""
ConfigAndPictures = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] PICTURE...",
        help=f"{CONFIG_HELP} After it, one or more pictures. With --weights, only pictures.",
    ),
]
VideosOption = Annotated[
    list[Path] | None,
    typer.Option("--video", metavar="VIDEO", help="A video instead of pictures. Repeat the option for more videos."),
]
PictureMapOption = Annotated[
    Path | None,
    typer.Option(metavar="OUT.png", help="Also write a PNG with each picture and its tokens, coloured by PCA."),
]


def encode(
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    arguments: ConfigAndPictures = None,
    video: VideosOption = None,
    max_frames: MaxFramesOption = None,
    picture_map: PictureMapOption = None,
    tower: TowerOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    overrides: SetOption = None,
    timings: Annotated[bool, typer.Option("--timings", help="Print the time of each phase.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the tower's tokens of each picture to a safetensors file. No language model is needed.

    The keys are the paths of the pictures or videos, as typed. Each tensor has the shape (tiles, N, C). Of a video, it is
    (1, N, C) from a tower of videos, and (frames, N, C) from a tower of pictures.
    """
    phases = Phases()
    phases.end("start, command line")
    given = [*(arguments or ())]
    config = given.pop(0) if given and tower is None and weights is None else None
    place, pictures = place_of(config, tower, weights), [Path(argument) for argument in given]
    _check_file("--out", out, ".safetensors")
    _check_file("--picture-map", picture_map, ".png")
    resolved = _resolved(place, overridden(overrides, device), pictures, video, draw=picture_map is not None)
    phases.end("config")
    files = video or pictures
    built = _built(resolved, files, phases)
    videos = video or resolved.tower.shape.frames is not None
    opened = partial(open_video, resolved, max_frames=max_frames) if videos else partial(_opened, resolved)
    images, draw = resolved.config.images, picture_map is not None
    features, grids, shown = _encoded(built, images, files, opened, phases, draw=draw)
    written = {name: "x".join(map(str, grid)) if grid else None for name, grid in grids.items()}
    native = built.shape.native is not None
    grid = {"grids": dumps(written)} if native else {"grid": "x".join(map(str, built.grid or []))}
    metadata = {"tower": resolved.tower.spec.name, "weights": resolved.tower.source.weights, **grid}
    drawn = draw_maps(shown, features, {name: grid for name, grid in grids.items() if grid}) if shown else None
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


def _resolved(
    place: Place, overrides: Sequence[str], pictures: list[Path], videos: list[Path] | None, *, draw: bool
) -> Resolved:
    """Resolve the tower.

    Raises ConfigError unless pictures or videos are given, for pictures for a tower of videos, and with `draw` for tokens
    without a grid.
    """
    from vita_core.errors import ConfigError
    from vita_core.pixels.video import is_still
    from vita_core.planning.resolution import resolve
    from vita_core.planning.videos import refuse_stills

    if bool(pictures) == bool(videos):
        wrong = "pictures and --video exclude each other" if videos else "no picture is given"
        raise ConfigError(f"{wrong}. Try: `vita encode CONFIG PICTURE --out OUT.safetensors`")
    resolved = resolve(place, [*overrides, *(UNTILED if videos else ())], tower_only=True)
    for still in filter(is_still, [*pictures, *(videos or ())]):
        refuse_stills(resolved.tower, f"{still}: it is a still picture")
    if draw and resolved.tower.geometry.grid is None:
        combine = resolved.config.tower.combine
        joined = combine in ("sequence", "interleave")
        why = f"`tower.combine: {combine}`" if joined else "a reduction"
        instead = "--set tower.combine=channel" if joined else "--set tower.reduce=null"
        raise ConfigError(
            f"--picture-map: the tokens have no places in the picture, because {why} leaves no grid. "
            f"Try: leave it out, or `{instead}`"
        )
    return resolved


def _check_file(option: str, path: Path | None, suffix: str) -> None:
    """Raise ConfigError if the `path` of an option does not end in `suffix`, or is a directory."""
    from vita_core.errors import ConfigError

    if path is not None and (path.suffix.lower() != suffix or path.is_dir()):
        other = path.parent / f"{path.stem or 'features'}{suffix}"
        raise ConfigError(f"{option}: must be a file that ends in {suffix}: {path}. Try: {other}")


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
    return tower.eval()


def _opened(resolved: Resolved, path: Path) -> Sequence[Image.Image]:
    from vita_core.pixels.images import MAX_PIXELS, open_picture

    return [open_picture(path, max_pixels=resolved.config.images.max_pixels or MAX_PIXELS)]


def _encoded(
    tower: BaseVisionTower,
    images: ImagesConfig,
    files: list[Path],
    opened: Callable[[Path], Sequence[Clip | Image.Image]],
    phases: Phases,
    *,
    draw: bool,
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...] | None], dict[str, list[Image.Image]]]:
    """Return the tokens (tiles, N, C) and the grid of each file by its path.

    With `draw`, also return the pictures at `SIDE` pixels: one of a picture or a frame, one for each step of a clip.
    """
    import torch

    from vita_core.models.pictures import Prepared, encoded, prepare
    from vita_core.pixels.fused import one_batch
    from vita_core.pixels.prefetching import prefetched

    features: dict[str, Tensor] = {}
    grids: dict[str, tuple[int, ...] | None] = {}
    shown: dict[str, list[Image.Image]] = {}

    def read(path: Path) -> tuple[str, Prepared]:
        parts = opened(path)
        if draw:
            frames, steps = getattr(parts[-1], "frames", [parts[-1]]), tower.shape.steps
            shown[str(path)] = [frames[step * len(frames) // steps].resize((SIDE, SIDE)) for step in range(steps)]
        first, *others = (prepare(tower, images, part) for part in parts)
        if others:  # the frames of a video, for a tower of pictures
            first = Prepared(one_batch([first.pixels, *(frame.pixels for frame in others)]), first.size)
        return str(path), first.copied(tower.device)

    together = BATCH if tower.shape.frames is None else 1  # a clip is as large as many pictures
    with prefetched(dict.fromkeys(files), read, batch=together) as batches, torch.inference_mode():
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
