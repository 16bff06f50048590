"""Make the tensors of one sample: its pixels, token ids and labels."""

from __future__ import annotations

import functools
from typing import Any

import torch

from vita_core.config.prompts import PromptConfig
from vita_core.models.model import VisionLanguageModel
from vita_core.pixels.images import MAX_PIXELS
from vita_core.planning.plan import make_plan
from vita_core.training.cache.frozen import FrozenTower, Visual
from vita_core.training.data import PictureRef, Sample, SampleError
from vita_core.training.data.pictures import picture_of
from vita_core.training.labelling import labelled

__all__ = ["SampleMaker"]


class SampleMaker:
    """Turns samples into what `vita_core.training.joint.collate` joins. `prompt` is that of the stage.

    If the tower is `frozen`, pictures whose tokens are kept are not opened.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompt: PromptConfig,
        max_length: int | None,
        frozen: FrozenTower | None = None,
    ) -> None:
        self.model, self.prompt, self.frozen = model, prompt, frozen
        self.by_tile = model.llm.marks_tiles(prompt) and model.settings.images.anyres is None
        context = model.llm.context
        limits = [limit for limit in (max_length, context) if limit is not None]
        self.max_length = min(limits) if limits else None
        self.tokens = functools.lru_cache(maxsize=4096)(self._tokens)

    def __call__(self, sample: Sample) -> dict[str, Any]:
        """Return `input_ids`, `labels` (T), the `pixels` (tiles, 3, H, W) and the `sizes` (width, height) of its pictures.

        Raises SampleError for a picture that cannot be opened, and for more than `max_length` tokens.
        """
        if sample.videos:
            raise SampleError("a video, which stages do not train on yet", sample.videos[0].name)
        seen = [self._seen(ref, several=len(sample.pictures) > 1) for ref in sample.pictures]
        places = [len(visual) if self.by_tile else 1 for visual, _ in seen]
        llm = self.model.llm
        made = labelled(llm.tokenizer, self.prompt, sample, stop_id=llm.stop_id, places=places)
        length = len(made.ids) - len(made.visuals) + sum(self.tokens(size) for _, size in seen)
        if self.max_length is not None and length > self.max_length:
            raise SampleError("too long", f"{length} of {self.max_length} tokens")
        return {
            "input_ids": torch.tensor(made.ids),
            "labels": torch.tensor(made.labels),
            "pixels": [visual for visual, _ in seen],
            "sizes": [size for _, size in seen],
        }

    def _seen(self, ref: PictureRef, *, several: bool) -> tuple[Visual, tuple[int, int]]:
        """Return a picture for the tower, or what it computed of it, and its size (width, height)."""
        if self.frozen is not None:
            kept = self.frozen.visual(ref, several=several)
            return kept, kept.size
        limit = self.model.settings.images.max_pixels or MAX_PIXELS
        prepared = self.model.prepare(picture_of(ref, limit), several=several)
        return prepared.pixels, prepared.size

    def _tokens(self, size: tuple[int, int]) -> int:
        """Return how many tokens of the language model a picture of `size` (width, height) takes."""
        return make_plan(self.model.resolved, picture=size).tokens
