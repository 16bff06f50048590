"""Make the tensors of one sample: its pixels, token ids and labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from vita_core.config.prompts import PromptConfig
from vita_core.errors import PictureError, split_advice
from vita_core.interrupts import temporary_directory
from vita_core.models.model import VisionLanguageModel
from vita_core.models.pictures import Picture, prepare
from vita_core.pixels.images import MAX_PIXELS
from vita_core.pixels.video import read_clip, read_frames
from vita_core.planning.plan import make_plan
from vita_core.training.cache.frozen import FrozenTower, Visual
from vita_core.training.data import PictureRef, Sample, SampleError
from vita_core.training.data.pictures import picture_of
from vita_core.training.labelling import labelled

__all__ = ["SampleMaker"]

Read = TypeVar("Read")
Seen = tuple[Visual, tuple[int, int]]
"""A picture for the tower, or what it computed of it, and its size (width, height)."""


class SampleMaker:
    """Turns samples into what `vita_core.training.joint.collate` joins. `prompt` is that of the stage.

    If the tower is `frozen`, pictures whose tokens are kept are not opened. Unless `keep`, no tokens are kept.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: PromptConfig,
        max_length: int | None,
        frozen: FrozenTower | None = None,
        *,
        keep: bool = True,
    ) -> None:
        self.model, self.prompt, self.frozen, self.keep = model, prompt, frozen, keep
        self.by_tile = model.llm.marks_tiles(prompt) and model.settings.images.anyres is None
        context = model.llm.context
        limits = [limit for limit in (max_length, context) if limit is not None]
        self.max_length = min(limits) if limits else None
        self.tokens = functools.lru_cache(maxsize=4096)(self._tokens)
        self.whole = model.settings.images.model_copy(update={"tiles": None})  # for frames, which are not cut

    def __call__(self, sample: Sample) -> dict[str, Any]:
        """Return `input_ids`, `labels` (T), the `pixels` (tiles, 3, H, W) and the `sizes` (width, height) of its pictures.

        A video is a clip for a tower of videos, else each of its frames is a picture. Raises SampleError for a picture or
        video that cannot be opened, and for more than `max_length` tokens.
        """
        if sample.pictures and self.model.tower.shape.frames is not None:
            raise SampleError("a picture, but the tower takes videos", sample.pictures[0].name)
        pictures = [self._seen(ref, several=len(sample.pictures) > 1) for ref in sample.pictures]
        videos = [self._video(ref) for ref in sample.videos]
        places = [len(visual) if self.by_tile else 1 for visual, _ in pictures]
        llm, frames = self.model.llm, [len(video) for video in videos]
        made = labelled(llm.tokenizer, self.prompt, sample, stop_id=llm.stop_id, places=places, frames=frames)
        length = len(made.ids) - len(made.visuals) + sum(self.tokens(size) for _, size in pictures)
        length += sum(self.tokens(size, cut=False) for video in videos for _, size in video)
        if self.max_length is not None and length > self.max_length:
            raise SampleError("too long", f"{length} of {self.max_length} tokens")
        of = {("image", at): [picture] for at, picture in enumerate(pictures)}
        of |= {("video", at): video for at, video in enumerate(videos)}
        seen = [one for place in dict.fromkeys(made.visuals) for one in of[place]]
        return {
            "input_ids": torch.tensor(made.ids),
            "labels": torch.tensor(made.labels),
            "pixels": [visual for visual, _ in seen],
            "sizes": [size for _, size in seen],
            "by_tile": self.by_tile,
        }

    def _seen(self, ref: PictureRef, *, several: bool) -> Seen:
        """Return a picture for the tower, or what it computed of it. Raises SampleError."""
        if self.frozen is not None:
            kept = self.frozen.visual(ref, several=several, keep=self.keep)
            return kept, kept.size
        limit = self.model.settings.images.max_pixels or MAX_PIXELS
        prepared = self.model.prepare(picture_of(ref, limit), several=several)
        return prepared.pixels, prepared.size

    def _video(self, ref: PictureRef) -> list[Seen]:
        """Return a video as one clip, or its frames. Raises SampleError."""
        tower, images = self.model.tower, self.whole
        if images.anyres is not None:
            raise SampleError("a video, which images.anyres does not take", ref.name)
        if not ref.exists():
            raise SampleError("a video is missing", ref.name)
        shown: list[Picture]
        if tower.shape.frames is not None:
            shown = [_read(ref, functools.partial(read_clip, frames=tower.shape.frames))]
        else:
            stated: dict[str, Any] = {} if images.frames is None else {"max_frames": images.frames}
            shown = [*_read(ref, functools.partial(read_frames, **stated))]
        prepared = [prepare(tower, images, one) for one in shown]
        return [(one.pixels, one.size) for one in prepared]

    def _tokens(self, size: tuple[int, int], *, cut: bool = True) -> int:
        """Return how many tokens of the language model a picture of `size` (width, height) takes, with `cut` in tiles."""
        resolved = self.model.resolved
        if not cut:
            resolved = replace(resolved, config=resolved.config.model_copy(update={"images": self.whole}))
        return make_plan(resolved, picture=None if self.model.tower.shape.frames else size).tokens


def _read(ref: PictureRef, read: Callable[[Path], Read]) -> Read:
    """Return what `read` makes of the file of a video. Raises SampleError if it cannot be read."""
    try:
        with _file(ref) as path:
            return read(path)
    except (PictureError, OSError) as error:
        raise SampleError("a video cannot be opened", split_advice(str(error))[0]) from error


@contextmanager
def _file(ref: PictureRef) -> Iterator[Path]:
    """Yield the path of a video, also of one inside a shard or a table."""
    if ref.whole is not None:
        yield ref.whole
        return
    with temporary_directory("vita-video-") as folder, ref.opened() as file:
        copy = folder / f"video{Path(ref.name).suffix}"
        copy.write_bytes(file.read())
        yield copy
