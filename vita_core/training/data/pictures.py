"""Open the pictures of samples."""

from __future__ import annotations

from PIL import Image

from vita_core.errors import PictureError, split_advice
from vita_core.pixels.images import MAX_PIXELS, open_picture
from vita_core.training.data.samples import PictureRef, SampleError

__all__ = ["picture_of"]


def picture_of(ref: PictureRef, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture as upright RGB. Raises SampleError if it is missing, damaged, or not a picture."""
    if not ref.exists():
        raise SampleError("a picture is missing", ref.name)
    try:
        with ref.opened() as file:
            return open_picture(file, max_pixels=max_pixels, name=ref.name)
    except (PictureError, OSError) as error:
        raise SampleError("a picture cannot be opened", split_advice(str(error))[0]) from error
