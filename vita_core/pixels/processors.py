"""Image processors: from a checkpoint's preprocessor config to transformers' classes, exact (PIL) or fast (torchvision)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vita_core.errors import CheckpointError, nearest
from vita_core.pixels.images import to_rgb

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fast_resize", "image_processor"]

FAST_FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's resampling filters that torch has a fast kernel of."""


def image_processor(config: Mapping[str, Any], *, fast: bool = False) -> Any:
    """The Hugging Face image processor that `config`, the content of a `preprocessor_config.json`, describes.

    It is transformers' PIL-backed class (bit-equal to the slow processors of transformers 4, which the towers were
    trained with), or with `fast` its torchvision-backed one, whose values differ by at most 2 of the 255 levels. Either
    is made to accept pictures of every mode that `open_picture` knows, and to know `crop_offset: round`: where a crop
    leaves an odd number of pixels, Hugging Face rounds its corner down, torchvision and timm to even.
    `.preprocess(picture_or_list, return_tensors="pt")["pixel_values"]` is `(B, 3, H, W)` float32.

    Raises `CheckpointError` for an `image_processor_type` that has no such class, and for settings it refuses.
    """
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")  # the latter until 2022
    if not isinstance(kind, str):
        raise CheckpointError("the preprocessor config has no image_processor_type; add one, say CLIPImageProcessor.")
    names = ("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "auto_map")
    settings = {key: value for key, value in config.items() if key not in names}
    try:
        made = _processor_class(kind, fast)(**settings)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{kind} refuses the preprocessor config: {error}. Mend that key.") from error
    if fast and getattr(made, "do_resize", False) and made.resample not in FAST_FILTERS:
        known = ", ".join(f"{number} ({name})" for number, name in FAST_FILTERS.items())
        raise CheckpointError(
            f"the preprocessor config resizes with PIL's filter {made.resample}; `tower.preprocess: fast` knows {known}: "
            "leave it out (exact)"
        )
    return made


def fast_resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGB picture resized to `size` (width, height) as PIL's antialiased bicubic does, to 2 levels, several times as fast."""
    resized = _resized(_channels_last(picture)[None], size[::-1], "bicubic")
    return Image.fromarray(resized[0].permute(1, 2, 0).contiguous().numpy())


def _channels_last(picture: Image.Image) -> Tensor:
    """Pixels (3, H, W) as they lie in memory, row by row: torch's uint8 kernels are fast on these, slow on planes."""
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _resized(pixels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """uint8 pixels (B, 3, H, W) at `size` (height, width), the axes one after the other as PIL takes them.

    Bicubic overshoots, and what stands between the two passes is clipped: the other order differs by tens of levels.
    """
    import torch.nn.functional as F

    height, width = pixels.shape[-2:]
    if height > size[0] and height - size[0] > 2 * (width - size[1]):  # Pillow 13; torch begins with the rows itself
        pixels = F.interpolate(pixels, (size[0], width), mode=mode, antialias=True)
    return F.interpolate(pixels, size, mode=mode, antialias=True) if pixels.shape[-2:] != size else pixels


@functools.cache
def _processor_class(kind: str, fast: bool) -> Any:
    """The subclass of transformers' `<kind>Pil` or `<kind>`; made here because importing transformers takes seconds."""
    import transformers

    wanted = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    known = [name.removesuffix("Pil") for name in dir(transformers) if name.endswith("ImageProcessorPil")]
    if wanted not in known:
        hint = nearest(wanted, known) or f" There are: {', '.join(known)}."
        raise CheckpointError(f"no exact (PIL-backed) image processor for image_processor_type {kind!r}.{hint}")
    base: Any = getattr(transformers, wanted if fast else f"{wanted}Pil")
    if fast and base.resize is not transformers.image_processing_backends.TorchvisionBackend.resize:
        raise CheckpointError(f"`tower.preprocess: fast` does not know how {wanted} resizes: leave it out (exact)")

    def process_image(self: Any, image: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(image, Image.Image):
            return base.process_image(self, image, *args, **options)
        rgb = to_rgb(image)
        if not fast:
            return base.process_image(self, rgb, *args, **options)
        return _channels_last(rgb).to(options.get("device"))

    def center_crop(self: Any, image: Any, size: Any, **options: Any) -> Any:
        spare = [have - want for have, want in zip(image.shape[-2:], (size.height, size.width), strict=True)]
        rounded = getattr(self, "crop_offset", None) == "round" and min(spare) >= 0
        if fast and min(spare) < 0:  # torchvision's border is one pixel off where it is odd
            image, spare = _padded(image, spare), [max(0, pixels) for pixels in spare]
        elif not rounded:
            return base.center_crop(self, image, size, **options)
        round_off: Callable[[float], int] = round if rounded else math.floor
        top, left = (round_off(pixels / 2) for pixels in spare)
        return image[..., top : top + size.height, left : left + size.width]

    def reduce(self: Any) -> tuple[Any, ...]:  # by its config: pickle finds no class made inside a function
        return functools.partial(image_processor, fast=fast), (self.to_dict(),)

    members = {"process_image": process_image, "center_crop": center_crop, "__reduce__": reduce}
    if fast:
        members |= {"resize": _resize(base), "rescale_and_normalize": _one_pass(base)}
    return type(base.__name__, (base,), members)  # the base's name, so that a saved config is a plain one


def _padded(image: Tensor, spare: list[int]) -> Tensor:
    """`image` (..., H, W) centred on zeros where `spare` (height, width) is negative, as the PIL-backed class does."""
    import torch.nn.functional as F

    missing = [max(0, -pixels) for pixels in reversed(spare)]  # F.pad begins with the last axis
    return F.pad(image, [side for pixels in missing for side in (math.ceil(pixels / 2), pixels // 2)])


def _resize(base: Any) -> Any:
    """`base.resize` by `_resized`, where that knows the filter."""
    sizes: dict[tuple[int, int, str], tuple[int, int]] = {}

    def resize(
        self: Any, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **options: Any
    ) -> Tensor:
        mode = FAST_FILTERS.get(resample)
        if mode is None or not antialias or image.dtype.is_floating_point:
            same: Tensor = base.resize(self, image, size, resample, antialias, **options)
            return same
        asked = (*image.shape[-2:], repr(size))
        if asked not in sizes:  # the base knows every way to say a size
            blank = image.new_zeros(()).expand(1, *image.shape[-2:])
            height, width = base.resize(self, blank, size, 0).shape[-2:]
            sizes[asked] = (height, width)
        return _resized(image, sizes[asked], mode)

    return resize


def _one_pass(base: Any) -> Any:
    """`base.rescale_and_normalize` into one buffer, contiguous whatever the layout of the bytes."""
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
