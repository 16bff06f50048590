"""What the config of a processor of pictures or videos may be, and how large it may make a picture.

The files are ``preprocessor_config.json``, ``video_preprocessor_config.json`` and parts of ``processor_config.json``, and what
timm (``pretrained_cfg``) and open_clip (``preprocess_cfg``) write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from vita_core.errors import CheckpointError
from vita_core.untrusted.schemas import Outside, check_object, checked

__all__ = ["check_preparation", "check_processor", "check_sides"]

MOST_SIDE = 8192
"""The most pixels of a side of the pictures that a processor makes."""
MOST_AREA = 1 << 28
"""The most pixels of a picture or a video of native resolution. The library's own processors have at most a third of it."""
LARGER, LEAST = 4, 2048
"""How many times the side of the encoder's pictures a side may be, and the pixels that it may have anyway."""
PAIRS = (("height", "width"), ("max_height", "max_width"), ("min_pixels", "max_pixels"))
SIDES = (*(side for pair in PAIRS for side in pair), "shortest_edge", "longest_edge")
FORMS = "a size: a side, [height, width], {height, width}, {shortest_edge} or {longest_edge}, in whole pixels from 1"
SWITCHES = {
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
    "rescale_factor": "do_rescale",
    "resample": "do_resize",
    "size": "do_resize",
    "crop_size": "do_center_crop",
}
"""The flag that must be off if a key is null."""
NO_SIZE = ("size_divisor", "max_num_patches", "max_patches", "max_soft_tokens")
"""Keys of processors that need no size: they keep the size of a picture, or count its patches."""
PIXEL_BYTES = 12
"""Bytes of a pixel of three channels in float32."""


def _whole(value: object, most: float, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: object, least: float, most: float) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    )  # NaN is in no range


def _checks(fits: Callable[[Any], bool], told: str) -> AfterValidator:
    """Return a check of pydantic: the value is null, or one for which `fits` is true."""

    def check(value: Any) -> Any:
        if value is not None and not fits(value):
            raise ValueError(told)
        return value

    return AfterValidator(check)


def _numbers(least: float, most: float, told: str) -> AfterValidator:
    """Return a check: a number in these bounds, or three, one a channel."""

    def fits(value: Any) -> bool:
        values = value if isinstance(value, list | tuple) else [value] * 3
        return len(values) == 3 and all(_number(one, least, most) for one in values)

    return _checks(fits, told)


def _counts(most: int) -> AfterValidator:
    """Return a check: an integer, or several in a list or by name."""

    def fits(value: Any) -> bool:
        values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
        return bool(values) and all(_whole(one, most) for one in values)

    return _checks(fits, f"an integer from 1 to {most:,}")


def _size(value: Any) -> Any:
    """Check a size in one of the forms of transformers."""
    if value is None:
        return value
    if isinstance(value, Mapping):
        sides = {key: side for key, side in value.items() if side is not None}
        if any((a in sides) != (b in sides) for a, b in PAIRS):
            raise ValueError(FORMS)
    else:
        sides = dict(zip(PAIRS[0], value if isinstance(value, list | tuple) else [value] * 2, strict=False))
        if isinstance(value, list | tuple) and len(value) != 2:
            raise ValueError(FORMS)
    if not sides or not set(sides) <= set(SIDES) or not all(_whole(side, float("inf")) for side in sides.values()):
        raise ValueError(FORMS)
    # of native resolution, the edges are the square roots of areas, or the areas themselves
    areas = {"min_pixels", "max_pixels", "longest_edge"} | ({"shortest_edge"} if "longest_edge" in sides else set())
    for name, side in sides.items():
        if side > (MOST_AREA if name in areas else MOST_SIDE):
            limit = f"{MOST_AREA:,} pixels" if name in areas else f"{MOST_SIDE:,} x {MOST_SIDE:,}"
            took = (side if name in areas else side * side) * PIXEL_BYTES
            raise ValueError(f"prepared: {name} {side:,} takes {took:,} bytes a picture, and the limit is {limit}")
    return value


Size = Annotated[Any, AfterValidator(_size)]
Means = Annotated[Any, _numbers(-1e6, 1e6, "3 numbers, or one")]
Stds = Annotated[Any, _numbers(1e-6, 1e6, "3 numbers above 0, or one")]
Colours = Annotated[Any, _numbers(0, 255, "3 numbers from 0 to 255, or one")]
Factor = Annotated[Any, _checks(lambda value: _number(value, 1e-9, 1e6), "a number above 0")]
Filter = Annotated[Any, _checks(lambda value: _whole(value, 5, 0), "a filter of PIL: a number from 0 to 5")]
Few = Annotated[Any, _counts(64)]
Patches = Annotated[Any, _counts(4096)]
Sides = Annotated[Any, _counts(MOST_SIDE)]
Many = Annotated[Any, _counts(1 << 20)]
Area = Annotated[Any, _counts(MOST_AREA)]
Flag = bool | None
Text = str | None


class Processor(Outside):
    """The config of an image or video processor of transformers, with three keys of this project (see `image_processor`)."""

    image_processor_type: Text = None
    feature_extractor_type: Text = None
    video_processor_type: Text = None
    do_resize: Flag = None
    do_center_crop: Flag = None
    do_rescale: Flag = None
    do_normalize: Flag = None
    do_convert_rgb: Flag = None
    do_pad: Flag = None
    do_sample_frames: Flag = None
    do_image_splitting: Flag = None
    do_flip_channel_order: Flag = None
    size: Size = None
    crop_size: Size = None
    pad_size: Size = None
    max_image_size: Size = None
    image_mean: Means = None
    image_std: Stds = None
    rescale_factor: Factor = None
    resample: Filter = None
    crop_pct: Factor = None
    patch_size: Patches = None
    merge_size: Few = None
    temporal_patch_size: Few = None
    pooling_kernel_size: Few = None
    scale_resolution: Patches = None
    max_num_patches: Many = None
    num_frames: Many = None
    min_pixels: Area = None
    max_pixels: Area = None
    data_format: Literal["channels_first", "FIRST", None] = None
    crop_offset: Literal["round", None] = None
    keep_aspect: Literal["inside", "around", None] = None
    fill_color: Colours = None


class TimmPreparation(Outside):
    """What timm writes about the preparation of pictures, beside much else."""

    mean: Means = None
    std: Stds = None
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming", None] = None
    crop_pct: Factor = None
    crop_mode: Text = None
    input_size: Sides = None


class OpenClipPreparation(Outside):
    """What open_clip writes about the preparation of pictures."""

    size: Size = None
    mean: Means = None
    std: Stds = None
    interpolation: Text = None
    resize_mode: Literal["shortest", "longest", "squash", None] = None
    fill_color: Colours = None


PREPARATIONS: dict[str, type[Outside]] = {"pretrained_cfg": TimmPreparation, "preprocess_cfg": OpenClipPreparation}
"""Keys of a config whose value is a preparation of pictures."""


def check_processor(config: Mapping[str, Any], file: str, inside: str = "") -> None:
    """Check the config of a processor, `inside` which key of a `file` it is. Raises CheckpointError with file, key and value.

    A null means the library's default, but not for what the library then computes with.
    """
    for key, switch in SWITCHES.items():
        off = switch in config and not config[switch]
        off = off or (key == "size" and any(config.get(other) is not None for other in NO_SIZE))
        if key in config and config[key] is None and not off:
            name = f"{inside}.{key}" if inside else key
            raise CheckpointError(
                f"{file}: {name}: null, but {switch} is not false. Try: correct that key, or download the file again"
            )
    checked(Processor, config, file, inside)


def check_preparation(key: str, value: Any, file: str) -> None:
    """Check the value of a key of a config, if it is one of those that say how pictures are prepared. Raises as above."""
    model = PREPARATIONS.get(key)
    if model is None or value is None:
        return
    check_object(value, file, key)
    shape = value.get("input_size")
    channels = shape[0] if isinstance(shape, list) and len(shape) == 3 and _whole(shape[0], 1 << 10) else 3
    values = (value.get("mean"), value.get("std"))
    if channels != 3 and any(isinstance(one, list) and len(one) == channels for one in values):
        raise CheckpointError(
            f"{file}: {key}: the encoder takes pictures of {channels} channels here, not 3. Try: an encoder of RGB pictures"
        )
    checked(model, value, file, key)


def check_sides(config: Mapping[str, Any], encoder: tuple[int, int], file: str) -> None:
    """Raise CheckpointError for a processor whose pictures are far larger than (height, width), those of the encoder."""
    most = max(LEAST, LARGER * max(encoder))
    for key in ("size", "crop_size"):
        value = config.get(key)
        if isinstance(value, Mapping):  # beside a shortest edge, the longest one only makes pictures smaller
            sides: Any = [
                side for name, side in value.items() if name != "longest_edge" or "shortest_edge" not in value
            ]
        else:
            sides = value if isinstance(value, list | tuple) else [value]
        largest = max((side for side in sides if isinstance(side, int)), default=0)
        if largest > most:
            raise CheckpointError(
                f"{file}: {key}: {value!r} is too large: {largest**2 * PIXEL_BYTES:,} bytes a picture, but the encoder takes "
                f"{encoder[0]} x {encoder[1]} pixels. Try: a size of at most {most}, or download the file again"
            )
