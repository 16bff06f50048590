"""The size of a tower's pictures, and their preprocessing, from a checkpoint's own files. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core.errors import CheckpointError, ConfigError
from vita_core.plugins.shapes import Shape
from vita_core.untrusted.processors import check_sides
from vita_core.untrusted.sizes import check_parameters
from vita_core.weights.sources import Source
from vita_core.weights.stated import place

__all__ = ["bounded", "check_patches", "completed", "height_width", "prepared_size", "resized", "stated_size"]


def height_width(size: Any) -> tuple[int, int] | None:
    """Return (height, width) for an integer, a pair, or a dict of height and width, and None for anything else."""
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if {"height", "width"} <= size.keys() else None
    if isinstance(size, int):
        return size, size
    return (int(size[-2]), int(size[-1])) if isinstance(size, list | tuple) and len(size) > 1 else None


def prepared_size(preprocessor: Mapping[str, Any] | None) -> tuple[tuple[int, int] | None, str]:
    """Return (height, width) of the pictures that a preprocessor config makes, or None if it depends on the picture.

    The second value is the key that states it.
    """
    if not preprocessor:
        return None, ""
    size, crop = preprocessor.get("size"), preprocessor.get("crop_size")
    if crop is not None and preprocessor.get("do_center_crop", True):
        return height_width(crop), "crop_size"
    if isinstance(size, Mapping) and "crop_pct" in preprocessor:  # ConvNeXt's: the edge is that of a square
        return height_width(size.get("shortest_edge")), "size"
    return height_width(size) if preprocessor.get("do_resize", True) else None, "size"


def stated_size(asked: tuple[int, int] | None, source: Source) -> tuple[int, int]:
    """Return (height, width) of the pictures: as asked, else of the checkpoint's processor, else of its config.

    Raises ConfigError if none of them states a size.
    """
    own = source.config.get("image_size") or source.config.get("img_size")
    size = asked or prepared_size(source.preprocessor)[0] or height_width(own)
    if size is None:
        raise ConfigError(
            f"tower.image_size: missing, and neither config.json nor preprocessor_config.json of {source.weights} states the "
            "size of the pictures. Try: `tower.image_size: 224`, or the size that the model was trained with"
        )
    return size


def completed(stated: Mapping[str, Any] | None, shape: Shape, source: Source) -> dict[str, Any]:
    """Return a preprocessor config from what a spec states as data: the sizes are the shape's, the filter is bicubic.

    Raises CheckpointError if the spec states nothing.
    """
    if stated is None:
        raise CheckpointError(
            f"{source.weights}: no preprocessor_config.json, and the tower states no preprocessing. "
            "Try: put the file that the model was published with beside its weights"
        )
    height, width = shape.image_size
    square = {"height": height, "width": width}
    edges: dict[str, Any] = {"size": square}
    if height == width:
        edges = {"size": {"shortest_edge": height}, "crop_size": square}
    kind = "CLIPImageProcessor" if height == width else "ViTImageProcessor"
    return {"image_processor_type": kind, "resample": 3, **({} if "size" in stated else edges), **stated}


def check_patches(size: tuple[int, int], own: Shape) -> None:
    """Raise ConfigError if `size`, which a config asks for, is no whole number of patches of an encoder, or it has none.

    `own` is the shape for the checkpoint's own size. An encoder has patches if all its grids are equal: a stage of a CNN
    takes what is left over.
    """
    if own.native is not None:
        raise ConfigError(
            "tower.image_size: this encoder keeps each picture's own size. Try: `tower.image_size: null`, and "
            "`images.max_tokens` for smaller or larger pictures"
        )
    rows, cols = own.stages[0].grid
    patch = (own.image_size[0] // rows, own.image_size[1] // cols)
    if len({stage.grid for stage in own.stages}) > 1 or size[0] % patch[0] == 0 == size[1] % patch[1]:
        return
    down = (max(size[0] // patch[0], 1) * patch[0], max(size[1] // patch[1], 1) * patch[1])
    choices = dict.fromkeys([down, (down[0] + patch[0], down[1] + patch[1])])
    advice = " or ".join(f"`tower.image_size: {_written(each)}`" for each in choices)
    raise ConfigError(
        f"tower.image_size: {_written(size)} is no whole number of patches of {patch[0]} x {patch[1]} pixels. Try: {advice}"
    )


def _written(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]}, {size[1]}]"


def resized(processor: Mapping[str, Any], to: tuple[int, int], *, exactly: bool = False) -> Mapping[str, Any]:
    """Return a preprocessor config that makes pictures of the size `to` (height, width).

    The edge before a crop grows as the crop does, or with `exactly` it is the crop's. Raises ConfigError for a size that the
    processor cannot make.
    """
    before, _ = prepared_size(processor)
    if before == to:
        return processor
    whole = {"height": to[0], "width": to[1]}
    size, crop = processor.get("size", {}), {"crop_size": whole} if "crop_size" in processor else {}
    if "shortest_edge" in size:
        scale = 1.0 if exactly or before is None or not crop else size["shortest_edge"] / min(before)
        made = {**processor, "size": {"shortest_edge": round(min(to) * scale)}, **crop}
        if prepared_size(made)[0] not in (None, to):  # ConvNeXt's image processor makes squares
            raise ConfigError(
                f"tower.image_size: the checkpoint's image processor makes squares only, not {_written(to)}. "
                f"Try: `tower.image_size: {min(to)}`"
            )
        return made
    if exactly or before is None or not crop or not isinstance(size, Mapping) or not {"height", "width"} <= size.keys():
        return {**processor, "size": whole, **crop}
    edges = {"height": round(to[0] * size["height"] / before[0]), "width": round(to[1] * size["width"] / before[1])}
    return {**processor, "size": edges, **crop}


def bounded(processor: Mapping[str, Any], shape: Shape, source: Source, config_file: str) -> Mapping[str, Any]:
    """Return the preprocessor config of an encoder.

    Raises CheckpointError if it makes pictures far larger than the encoder's, or if the encoder has more parameters than any.
    """
    check_parameters(sum(stage.parameters for stage in shape.stages), place(source, config_file))
    if shape.native is None:
        check_sides(processor, shape.image_size, place(source, source.preprocessor_file or "preprocessor_config.json"))
    return processor
