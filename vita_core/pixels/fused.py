"""The pixels of pictures for several encoders at once: a container like a tensor, and the processor that fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from vita_core.errors import VitaError
from vita_core.pixels.images import to_rgb

__all__ = ["FusedPixels", "FusedProcessor", "Pixels", "one_batch"]

PartPixels = Tensor | list[Tensor]
"""The pixels of one part: a tensor (B, 3, H, W), or a list of B tensors (3, H, W) of different sizes."""


class FusedPixels:
    """The pixels of the same pictures for each part of a fused tower. It moves, pins, batches and indexes like a tensor.

    `parts` has for each encoder a tensor (B, 3, H, W), of videos (B, frames, 3, H, W). For an encoder of native resolution it
    is a list of B tensors (3, H, W) if their sizes differ. One picture of a batch, ``pixels[0]``, has for each encoder a
    tensor (3, H, W), and ``torch.stack`` makes a batch of such pictures again.
    """

    def __init__(self, parts: Iterable[PartPixels]) -> None:
        self.parts: tuple[PartPixels, ...] = tuple(_together(part) for part in parts)
        counts = [len(part) for part in self.parts]
        if len(set(counts)) != 1:
            raise VitaError(
                f"pixels of a fused tower have another number of pictures for each part: {counts}. "
                "Try: prepare the pictures with the tower's image_processor"
            )

    # like a tensor ---------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The shape of the first part's pixels. Raises VitaError if they have different sizes."""
        first = self.parts[0]
        if not isinstance(first, Tensor):
            raise VitaError(
                "pictures of different sizes have no common shape. Try: the shape of one picture, pixels[0]"
            )
        return first.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first part's pixels."""
        return self.first.dtype

    @property
    def device(self) -> torch.device:
        """The device of the first part's pixels."""
        return self.first.device

    @property
    def ndim(self) -> int:
        """The number of dimensions of the first part's pixels."""
        return self.first.ndim + (not isinstance(self.parts[0], Tensor))

    @property
    def first(self) -> Tensor:
        """One tensor of the pixels, of the first part."""
        return next(self._tensors(), torch.empty(0))

    def _tensors(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield from [part] if isinstance(part, Tensor) else part

    def map(self, function: Callable[[Tensor], Tensor]) -> FusedPixels:
        """Return the pixels with `function` applied to every tensor."""
        return FusedPixels(
            function(part) if isinstance(part, Tensor) else [*map(function, part)] for part in self.parts
        )

    def to(self, *args: Any, **kwargs: Any) -> FusedPixels:
        """Move or convert every tensor, as ``Tensor.to`` does."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def cpu(self) -> FusedPixels:
        """Return the pixels in the memory of the CPU."""
        return self.map(Tensor.cpu)

    def pin_memory(self, *args: Any) -> FusedPixels:
        """Return the pixels in pinned memory. A DataLoader with ``pin_memory=True`` calls it."""
        return self.map(lambda tensor: tensor.pin_memory(*args))

    def is_pinned(self) -> bool:
        """Return whether all pixels are in pinned memory."""
        return all(tensor.is_pinned() for tensor in self._tensors())

    def record_stream(self, stream: Any) -> None:
        """Keep the memory of every tensor until the work that is queued on `stream` is done."""
        for tensor in self._tensors():
            tensor.record_stream(stream)

    def clone(self) -> FusedPixels:
        """Return a copy of the pixels."""
        return self.map(Tensor.clone)

    def split(self, sizes: int | list[int], dim: int = 0) -> tuple[FusedPixels, ...]:
        """Split the pictures into groups of a size, or of several `sizes`, as ``Tensor.split`` does. `dim` must be 0."""
        if dim != 0:
            raise VitaError(
                f"pictures of several encoders are split by dimension 0, not by {dim}. Try: pixels.split(sizes)"
            )
        places = torch.arange(len(self)).split(sizes)
        return tuple(self[int(group[0]) : int(group[-1]) + 1] if len(group) else self[:0] for group in places)

    def unsqueeze(self, dim: int) -> FusedPixels:
        """Return one picture as a batch of one."""
        return self.map(lambda tensor: tensor.unsqueeze(dim))

    def __len__(self) -> int:
        return len(self.parts[0])

    def __iter__(self) -> Iterator[FusedPixels]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> FusedPixels:
        if all(isinstance(part, Tensor) for part in self.parts):
            return self.map(lambda tensor: tensor[index])
        chosen = torch.arange(len(self))[index]  # the rules of a tensor for slices, masks and lists of places
        if chosen.ndim > 1:
            raise VitaError(
                f"pictures of different sizes are indexed by one dimension, not by {index!r}. Try: pixels[0]"
            )
        if chosen.ndim == 0:
            return FusedPixels(part[int(chosen)] for part in self.parts)
        places = chosen.tolist()
        return FusedPixels(
            part[places] if isinstance(part, Tensor) else [part[i] for i in places] for part in self.parts
        )

    def __repr__(self) -> str:
        shapes = [
            [*part.shape] if isinstance(part, Tensor) else [[*each.shape] for each in part] for part in self.parts
        ]
        return f"FusedPixels({shapes}, dtype={self.dtype}, device={self.device})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Support ``torch.cat`` and ``torch.stack`` of pictures, and ``torch.split``. Raises VitaError for anything else."""
        given = {**dict(zip(("tensors", "dim"), args, strict=False)), **(kwargs or {})}
        pictures, dim = given.get("tensors", ()), given.get("dim", 0)
        if func is torch.split:
            return args[0].split(*args[1:], **(kwargs or {}))
        if len({len(item.parts) for item in pictures if isinstance(item, FusedPixels)}) > 1:
            raise VitaError(
                "pixels are for different numbers of encoders. Try: prepare all pictures with one tower's image_processor"
            )
        if func not in JOINS or dim != 0 or not all(isinstance(item, FusedPixels) for item in pictures):
            raise VitaError(
                f"torch.{getattr(func, '__name__', func)} is not defined here for the pixels of several encoders. "
                "Try: pixels.map(function), or pixels.parts"
            )
        return FusedPixels(map(JOINS[func], zip(*(item.parts for item in pictures), strict=True)))


def _together(part: PartPixels) -> PartPixels:
    """Return a list of tensors of one shape as one tensor."""
    if isinstance(part, Tensor):
        return part
    return torch.stack(part) if part and len({tensor.shape for tensor in part}) == 1 else list(part)


def _cat(column: Sequence[PartPixels]) -> PartPixels:
    tensors = [part for part in column if isinstance(part, Tensor)]
    if len(tensors) == len(column) and len({part.shape[1:] for part in tensors}) == 1:
        return torch.cat(tensors)
    return [picture for part in column for picture in part]


JOINS: Mapping[Any, Callable[[Sequence[Any]], PartPixels]] = {torch.cat: _cat, torch.concat: _cat, torch.stack: list}
"""The functions of torch that join pictures, and what they do with the pixels of one part."""


def _collate(batch: Sequence[FusedPixels], *, collate_fn_map: Any = None) -> FusedPixels:
    return FusedPixels(map(list, zip(*(picture.parts for picture in batch), strict=True)))


default_collate_fn_map[FusedPixels] = _collate  # a DataLoader then makes batches of pictures as it does of tensors


Pixels = Tensor | FusedPixels
"""The pixels of a batch: a tensor, or the pixels for each part of a fused tower."""


def one_batch(batches: Sequence[Pixels]) -> Pixels:
    """Return the pictures of several batches as one batch."""
    joined: Pixels = torch.cat([*batches])  # type: ignore[list-item]  # FusedPixels, by __torch_function__
    return joined


class FusedProcessor:
    """Prepares pictures for each part of a fused tower by the part's own image processor; `parts` are these processors.

    ``preprocess(picture_or_list, return_tensors="pt")["pixel_values"]`` is a `FusedPixels`. A picture is decoded and converted
    to RGB once for all parts. `image_mean` and `image_std` are those of the first part.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)
        self.image_mean, self.image_std = getattr(parts[0], "image_mean", None), getattr(parts[0], "image_std", None)

    def preprocess(self, images: Any, return_tensors: str | None = None) -> Any:
        """Return the pixels of a picture, of a list of pictures or, for towers of videos, of the frames of a video."""
        from transformers.feature_extraction_utils import BatchFeature

        decoded = _decoded(images)
        made = [part.preprocess(decoded, return_tensors="pt")["pixel_values"] for part in self.parts]
        return BatchFeature({"pixel_values": FusedPixels(made)})

    __call__ = preprocess

    def to_dict(self) -> dict[str, Any]:
        """Return the configs of the parts' processors."""
        return {"image_processor_type": type(self).__name__, "parts": [part.to_dict() for part in self.parts]}


def _decoded(images: Any) -> Any:
    if isinstance(images, Image.Image):
        return to_rgb(images)
    return [_decoded(image) for image in images] if isinstance(images, list | tuple) else images
