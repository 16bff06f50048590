"""Build transformers' image processors from a checkpoint's preprocessor config: exact (PIL) or fast (torchvision)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vita_core.errors import CheckpointError, nearest
from vita_core.pixels.clips import clip_processor, takes_videos
from vita_core.pixels.framing import centred, framed_size
from vita_core.pixels.images import Resize, to_rgb
from vita_core.untrusted.schemas import check_methods

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fast_resizer", "image_processor"]

FAST_FILTERS = {2: "bilinear", 3: "bicubic"}
"""The resampling filters of PIL (number: name) for which torch has a fast kernel."""


def image_processor(config: Mapping[str, Any], *, fast: bool = False) -> Any:
    """Return the Hugging Face image processor that `config` describes, the content of a `preprocessor_config.json`.

    By default it is transformers' PIL-backed class. Its values are bit-equal to those of the slow processors in
    transformers 4, which the towers were trained with. With `fast` it is the torchvision-backed class, whose values
    differ by at most 2 of 255 levels. `.preprocess(picture_or_list, return_tensors="pt")["pixel_values"]` is a float32
    tensor (B, 3, H, W). Where transformers has only a torchvision-backed class, that one is returned. A processor of videos
    takes the frames of a video, and gives (1, frames, 3, H, W).

    Both classes accept pictures of every mode that `open_picture` accepts, and get three settings. `crop_offset: round`
    is for crops that leave an odd number of pixels: Hugging Face rounds the corner of the crop down, torchvision and timm
    round it to even. `keep_aspect: inside` or `around` resizes to the frame `size` without changing the aspect (see
    `vita_core.pixels.framing`). `fill_color` is the color of the border of a picture that is smaller than `crop_size`, by
    default black; it needs `crop_offset: round`.

    Raises `CheckpointError` for an `image_processor_type` without such a class, for settings that the class refuses, and for one
    that has the name of a method.
    """
    keys = ("image_processor_type", "feature_extractor_type", "video_processor_type")  # the second one until 2022
    kind = next((config[key] for key in keys if config.get(key)), None)
    if not isinstance(kind, str):
        raise CheckpointError(
            "preprocessor config: image_processor_type is missing. Try: add it to the checkpoint's "
            "preprocessor_config.json, for example CLIPImageProcessor"
        )
    names = (*keys, "processor_class", "_valid_processor_keys", "auto_map")
    settings = {key: value for key, value in config.items() if key not in names}
    made_of = _processor_class(kind, fast)
    check_methods(settings, made_of, "preprocessor_config.json")
    try:
        made = made_of(**settings)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(
            f"preprocessor config: {kind} does not accept it: {reason}. "
            "Try: correct that key in the checkpoint's preprocessor_config.json"
        ) from error
    if fast and getattr(made, "do_resize", False) and made.resample not in FAST_FILTERS:
        known = ", ".join(f"{number} ({name})" for number, name in FAST_FILTERS.items())
        raise CheckpointError(
            f"tower.preprocess: 'fast' does not support the preprocessor config's PIL filter {made.resample}, only {known}. "
            "Try: `tower.preprocess: exact`"
        )
    return made


def fast_resizer() -> Resize:
    """Return a function that resizes an RGB picture to a size (width, height) by torch's antialiased bicubic filter.

    It is several times as fast as PIL's filter, and its values differ by at most 2 of 255 levels. It remembers the pixels
    of the last picture: tiles and a thumbnail are made of the same one, and reading a large picture out of PIL takes a
    third of the time. Make one for each picture.
    """
    last: list[tuple[Image.Image, Tensor]] = []

    def resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        if not last or last[0][0] is not picture:
            last[:] = [(picture, _channels_last(picture)[None])]
        resized = _resized(last[0][1], size[::-1], "bicubic")
        return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())

    return resize


def _channels_last(picture: Image.Image) -> Tensor:
    """Return the pixels (3, H, W) of an RGB picture with the channels last in memory, where torch's uint8 kernels are fast."""
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _resized(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Return uint8 pixels (B, 3, H, W) resized to `size` (height, width), one axis after the other in PIL's order.

    The order matters: bicubic overshoots and the values between the two passes are clipped, so that the other order
    gives values that differ by tens of levels.
    """
    import torch.nn.functional as F

    height, width = pixels.shape[-2:]
    if height > size[0] and height - size[0] > 2 * (
        width - size[1]
    ):  # Pillow 13 resizes the height first here; torch resizes the width first
        pixels = F.interpolate(pixels, (size[0], width), mode=mode, antialias=True)
    return F.interpolate(pixels, size, mode=mode, antialias=True) if pixels.shape[-2:] != size else pixels


@functools.cache
def _processor_class(kind: str, fast: bool) -> Any:
    """Return a subclass of `_base_class(kind, fast)`. It is made in a function because importing transformers takes seconds."""
    base = _base_class(kind, fast)

    def process_image(self: Any, image: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(image, Image.Image):
            return base.process_image(self, image, *args, **options)
        rgb = to_rgb(image)
        if not fast:
            return base.process_image(self, rgb, *args, **options)
        return _channels_last(rgb).to(options.get("device"))

    def center_crop(self: Any, image: Any, size: Any, **options: Any) -> Any:
        wanted = (size.height, size.width)
        if getattr(self, "crop_offset", None) == "round":
            return centred(image, wanted, getattr(self, "fill_color", (0, 0, 0)))
        spare = [have - want for have, want in zip(image.shape[-2:], wanted, strict=True)]
        if not fast or min(spare) >= 0:
            return base.center_crop(self, image, size, **options)
        # torchvision's border is one pixel off if the number is odd
        image, (top, left) = _padded(image, spare), (max(0, pixels) // 2 for pixels in spare)
        return image[..., top : top + size.height, left : left + size.width]

    own_resize = _resize(base) if fast else base.resize

    def resize(self: Any, image: Any, size: Any, *args: Any, **options: Any) -> Any:
        rule = getattr(self, "keep_aspect", None)
        if rule is not None:
            height, width = framed_size(image.shape[-2:], (size.height, size.width), rule)
            size = type(size)(height=height, width=width)
        return own_resize(self, image, size, *args, **options)

    def reduce(self: Any) -> tuple[Any, ...]:  # pickle cannot find a class that was made inside a function
        return functools.partial(image_processor, fast=fast), (self.to_dict(),)

    if takes_videos(base):
        return clip_processor(base, reduce)
    members = {"process_image": process_image, "center_crop": center_crop, "resize": resize, "__reduce__": reduce}
    if fast:
        members["rescale_and_normalize"] = _one_pass(base)
    return type(base.__name__, (base,), members)  # with the base's name, so that saved configs name it


def _base_class(kind: str, fast: bool) -> Any:
    """Return transformers' class `<kind>Pil`, or `<kind>` if `fast` or if there is no other.

    Raises CheckpointError if there is neither.
    """
    import transformers

    wanted = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    known = [name.removesuffix("Pil") for name in dir(transformers) if name.endswith("ImageProcessorPil")]
    # some newer processors, such as DINOv3's, exist only with torchvision
    single = wanted.endswith(("ImageProcessor", "VideoProcessor")) and hasattr(transformers, wanted)
    single = single and wanted not in known and not wanted.startswith(("Auto", "Base"))
    if wanted not in known and not single:
        found = nearest(wanted, known)
        choices = "correct the name" if found else f"one of {', '.join(known)}"
        raise CheckpointError(
            f"image_processor_type: transformers has no image processor {kind!r}.{found} "
            f"Try: {choices} in the checkpoint's preprocessor_config.json"
        )
    base: Any = getattr(transformers, wanted if fast or single else f"{wanted}Pil")
    if fast and base.resize is not transformers.image_processing_backends.TorchvisionBackend.resize:
        raise CheckpointError(
            f"tower.preprocess: 'fast' does not support {wanted}, which has its own way to resize. "
            "Try: `tower.preprocess: exact`"
        )
    return base


def _padded(image: Tensor, spare: list[int]) -> Tensor:
    """Pad `image` (..., H, W) with zeros on the axes where `spare` (height, width) is negative, as the PIL-backed class does."""
    import torch.nn.functional as F

    missing = [max(0, -pixels) for pixels in reversed(spare)]  # F.pad begins with the last axis
    return F.pad(image, [side for pixels in missing for side in (math.ceil(pixels / 2), pixels // 2)])


def _resize(base: Any) -> Any:
    """Return a method that resizes by `_resized` if it supports the filter, and by `base.resize` otherwise."""
    sizes: dict[tuple[int, int, str], tuple[int, int]] = {}

    def resize(
        self: Any, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **options: Any
    ) -> Tensor:
        mode = FAST_FILTERS.get(resample)
        if mode is None or not antialias or image.dtype.is_floating_point:
            same: Tensor = base.resize(self, image, size, resample, antialias, **options)
            return same
        asked = (*image.shape[-2:], repr(size))
        if asked not in sizes:  # the base understands every form of `size`
            blank = image.new_zeros(()).expand(1, *image.shape[-2:])
            height, width = base.resize(self, blank, size, 0).shape[-2:]
            sizes[asked] = (height, width)
        return _resized(image, sizes[asked], mode)

    return resize


def _one_pass(base: Any) -> Any:
    """Return a method like `base.rescale_and_normalize` that fills a single buffer, contiguous for any memory layout."""
    import torch

    def rescale_and_normalize(
        self: Any,
        images: Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
    ) -> Tensor:
        if not (do_rescale and do_normalize):
            options = (do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            plain: Tensor = base.rescale_and_normalize(self, images, *options)
            return plain.contiguous()
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (image_mean, image_std))
        made = torch.empty(images.shape, dtype=torch.float32, device=images.device).copy_(images)
        return made.mul_(rescale_factor / std).sub_(mean / std)

    return rescale_and_normalize
