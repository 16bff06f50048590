"""Prepare pictures for encoders of native resolution: each keeps its own aspect."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from vita_core.pixels.processors import image_processor
from vita_core.plugins.native import NativeSize

__all__ = ["native_processor"]


def native_processor(config: Mapping[str, Any], native: NativeSize, *, fast: bool = False) -> Any:
    """Return an image processor like `vita_core.pixels.processors.image_processor` that keeps the aspect of each picture.

    ``preprocess(picture_or_list)["pixel_values"]`` is a list of float32 tensors (3, H, W). They have the values that the
    library's own processor cuts into patches. Raises CheckpointError as `image_processor`, and PictureError for a picture that
    is too narrow.
    """
    made = image_processor(config, fast=fast)
    base: Any = type(made)
    made.__class__ = _native_class(base, native, fast)
    return made


@functools.cache
def _native_class(base: Any, native: NativeSize, fast: bool) -> Any:
    """Return a subclass of a class of image processors. It is made in a function because importing transformers takes seconds."""
    import torch
    import torch.nn.functional as F
    from transformers.feature_extraction_utils import BatchFeature
    from transformers.image_processing_backends import PilBackend, TorchvisionBackend
    from transformers.image_utils import SizeDict

    backend = PilBackend if issubclass(base, PilBackend) else TorchvisionBackend
    # Qwen-VL and Pixtral resize by their own rules inside `resize`; here NativeSize has the rule
    plain = base.resize if fast else backend.resize

    def prepared(self: Any, picture: Any) -> Any:
        image = self.process_image(picture, do_convert_rgb=True)
        image = image[None] if backend is TorchvisionBackend else image
        height, width = image.shape[-2:]
        size = native.size(height, width)
        for rows, cols in [size] if native.resizes is None else native.resizes(height, width, native):
            image = plain(self, image, SizeDict(height=rows, width=cols), resample=self.resample)
        spare = (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2])
        if any(spare):  # F.pad cuts off if it is negative
            fitted = F.pad(torch.as_tensor(image), spare)
            image = fitted if backend is TorchvisionBackend else fitted.numpy()
        if backend is TorchvisionBackend:
            normal = (self.do_rescale, self.rescale_factor, self.do_normalize, self.image_mean, self.image_std)
            return self.rescale_and_normalize(image, *normal)[0]
        image = self.rescale(image, self.rescale_factor) if self.do_rescale else image
        image = self.normalize(image, self.image_mean, self.image_std) if self.do_normalize else image
        return torch.as_tensor(image, dtype=torch.float32)

    def preprocess(self: Any, images: Any, return_tensors: str | None = None) -> Any:
        pictures = images if isinstance(images, Sequence) else [images]
        return BatchFeature({"pixel_values": [prepared(self, picture) for picture in pictures]})

    def call(self: Any, images: Any, return_tensors: str | None = None) -> Any:
        return preprocess(self, images, return_tensors)

    def reduce(self: Any) -> tuple[Any, ...]:  # pickle cannot find a class that was made inside a function
        return functools.partial(native_processor, native=native, fast=fast), (self.to_dict(),)

    return type(base.__name__, (base,), {"preprocess": preprocess, "__call__": call, "__reduce__": reduce})
