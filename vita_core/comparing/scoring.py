"""Score a trained model on held-out pictures: the loss of each caption, and the answer about each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vita_core.config.training import CacheConfig
from vita_core.models.building import build
from vita_core.models.model import VisionLanguageModel
from vita_core.models.pictures import Prepared
from vita_core.planning.resolution import Resolved, resolve
from vita_core.training.cache.frozen import FrozenTower
from vita_core.training.cache.store import FeatureStore
from vita_core.training.data import Sample, Turn, read_samples
from vita_core.training.evaluate import named_and_shuffled
from vita_core.training.joint import Joint, collate
from vita_core.training.making import SampleMaker

__all__ = ["Scorer"]

BATCH = 16
"""As ``vita eval`` has it, so that the answers are the same."""


class Scorer:
    """Scores the model in a directory that a training wrote. `cache` keeps the tower's features of the pictures.

    `planned` is what was trained: the loss is that of the prompt of its last stage. Without stages, the captions were trained
    on, which are the first answers, and are scored as such; with stages, a picture is asked its own first question if it has one.
    """

    def __init__(self, trained: Path, planned: Resolved, cache: Path) -> None:
        self.model = build(resolve(trained, [f"device={planned.config.device}"]))
        training, prompt = planned.config.training, self.model.settings.prompt
        stages, self.captions = training.stages or [], training.stages is None
        if stages and stages[-1].prompt is not None:
            prompt = prompt.model_copy(update={"template": stages[-1].prompt})
        keeps = training.cache is not False and all(stage.train.tower == "frozen" for stage in stages)
        kept = training.cache if isinstance(training.cache, CacheConfig) else CacheConfig()
        self.store = FeatureStore(cache, int(kept.max_gb * 1e9)) if keeps else None
        self.frozen = FrozenTower(self.model, self.store, "float32")
        self.joint = Joint(self.model, self.frozen).eval()
        self.make = SampleMaker(self.model, prompt, None, self.frozen)

    def losses(self, samples: Sequence[Sample]) -> list[float]:
        """Return the mean loss of the tokens of each sample's answers."""
        return [loss for batch in _batches(samples, "validation") for loss in self._losses(self._made(batch))]

    def rows(self, file: Path, groups: Sequence[int]) -> list[dict[str, Any]]:
        """Return a row for each sample of a JSONL: ``{"image", "group", "loss", "answer", "named", "shuffled"}``.

        `groups` are the numbers of the pictures' groups of near-duplicates. Each picture goes through the tower once.
        """
        samples, losses, answers = read_samples(file), [], []
        for batch in _batches(samples, "test"):
            made = self._made(batch)
            losses += self._losses(made)
            own = [None if self.captions else sample.turns[0].question for sample in batch]
            answers += self._answers(made, [question or self.model.settings.prompt.question for question in own])
        named, shuffled = named_and_shuffled(samples, answers)
        found = zip(samples, groups, losses, answers, named, shuffled, strict=True)
        keys = ("image", "group", "loss", "answer", "named", "shuffled")
        return [dict(zip(keys, (sample.image.name, *rest), strict=True)) for sample, *rest in found]

    def close(self) -> None:
        """Write the features that are new."""
        self.frozen.flush()

    def _made(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Return the tensors of samples, with the tower's features in place of the pixels."""
        if self.captions:
            samples = [replace(sample, turns=(Turn(None, sample.caption),)) for sample in samples]
        made = [self.make(sample) for sample in samples]
        flat = [visual for one in made for visual in one["pixels"]]
        features = iter(self.frozen.features(flat))
        return [one | {"pixels": [next(features) for _ in one["pixels"]]} for one in made]

    @torch.no_grad()
    def _losses(self, made: Sequence[dict[str, Any]]) -> list[float]:
        device, batch = self.model.llm.device, collate(made)
        moved = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        return [float(loss) for loss in self.joint.each(moved)]

    def _answers(self, made: Sequence[dict[str, Any]], questions: Sequence[str]) -> list[str]:
        rows = [[Prepared(one["pixels"][0], one["sizes"][0])] for one in made]
        with _encoding_by(self.model, self.frozen):
            return [answer.text for answer in self.model.ask_rows(rows, questions)]


@contextmanager
def _encoding_by(model: VisionLanguageModel, frozen: FrozenTower) -> Iterator[None]:
    """Have a model take the tower's features in place of pixels, as a training does."""
    vars(model)["encode_each"] = frozen.encode_each  # before the method of its class
    try:
        yield
    finally:
        del vars(model)["encode_each"]


def _batches(samples: Sequence[Sample], name: str) -> Iterator[Sequence[Sample]]:
    starts = range(0, len(samples), BATCH)
    yield from (samples[start : start + BATCH] for start in tqdm(starts, desc=name, unit="batch", disable=None))
