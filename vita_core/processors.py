"""Image processors: from a checkpoint's preprocessor config to transformers' exact, PIL-backed classes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from vita_core.errors import CheckpointError, nearest
from vita_core.images import to_rgb

__all__ = ["image_processor"]


def image_processor(config: Mapping[str, Any]) -> Any:
    """The Hugging Face image processor that `config`, the content of a `preprocessor_config.json`, describes.

    It is transformers' PIL-backed class (bit-equal to the slow processors of transformers 4, which the towers were
    trained with), made to accept pictures of every mode that `open_picture` knows, and to know
    `crop_offset: round`: where a crop leaves an odd number of pixels, Hugging Face rounds its corner down, torchvision
    and timm to even. `.preprocess(picture_or_list, return_tensors="pt")["pixel_values"]` is `(B, 3, H, W)` float32.

    Raises `CheckpointError` for an `image_processor_type` that has no such class, and for settings it refuses.
    """
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")  # the latter until 2022
    if not isinstance(kind, str):
        raise CheckpointError("the preprocessor config has no image_processor_type; add one, say CLIPImageProcessor.")
    names = ("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "auto_map")
    settings = {key: value for key, value in config.items() if key not in names}
    try:
        return _processor_class(kind)(**settings)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{kind} refuses the preprocessor config: {error}. Mend that key.") from error


@functools.cache
def _processor_class(kind: str) -> Any:
    """The subclass of transformers' `<kind>Pil`; made here because importing transformers takes seconds."""
    import transformers

    wanted = kind.replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")
    known = [name.removesuffix("Pil") for name in dir(transformers) if name.endswith("ImageProcessorPil")]
    if wanted not in known:
        hint = nearest(wanted, known) or f" There are: {', '.join(known)}."
        raise CheckpointError(f"no exact (PIL-backed) image processor for image_processor_type {kind!r}.{hint}")
    base: Any = getattr(transformers, f"{wanted}Pil")

    def process_image(self: Any, image: Any, *args: Any, **options: Any) -> Any:
        return base.process_image(self, to_rgb(image) if isinstance(image, Image.Image) else image, *args, **options)

    def center_crop(self: Any, image: NDArray[Any], size: Any, **options: Any) -> Any:
        spare = [have - want for have, want in zip(image.shape[-2:], (size.height, size.width), strict=True)]
        if getattr(self, "crop_offset", None) != "round" or min(spare) < 0:
            return base.center_crop(self, image, size, **options)
        top, left = (round(pixels / 2) for pixels in spare)
        return image[..., top : top + size.height, left : left + size.width]

    def reduce(self: Any) -> tuple[Any, ...]:  # by its config: pickle finds no class made inside a function
        return image_processor, (self.to_dict(),)

    members = {"process_image": process_image, "center_crop": center_crop, "__reduce__": reduce}
    return type(base.__name__, (base,), members)  # the base's name, so that a saved config is a plain one
