"""The warm start: before the language model is run at all, the projector learns the words of the captions."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vita_core.config.schema import TrainingConfig
from vita_core.models.model import VisionLanguageModel
from vita_core.protocol import WordProjector
from vita_core.training.align import IGNORE, CachedSamples, ProjectorTrainer

__all__ = ["CaptionWords", "run_warm_start"]


class WarmStart(ProjectorTrainer):
    """Projected tokens, on average, become the mean embedding of the caption's words, and closest to it of all captions.

    A `WordProjector` is trained on its own loss instead.
    """

    def __init__(self, *args: Any, captions: CaptionWords, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets, self.number = captions.targets, captions.number
        self.centre, self.variance = self.targets.mean(0), self.targets.var()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Squared error of every token over the targets' variance, plus a softmax over all captions' directions; or the
        projector's own."""
        keys = [tuple(int(i) for i in row if i != IGNORE) for row in inputs["answer_ids"]]
        wanted = torch.tensor([self.number[key] for key in keys], device=self.targets.device)
        if isinstance(model, WordProjector):
            loss = model.word_loss(inputs["features"], wanted)
            return (loss, {}) if return_outputs else loss
        tokens = model(inputs["features"])  # (B, N, D)
        error = (tokens - self.targets[wanted, None]).pow(2).mean() / self.variance
        direction = F.normalize(tokens.mean(1) - self.centre, dim=-1)
        similarity = direction @ F.normalize(self.targets - self.centre, dim=-1).T
        loss = error + F.cross_entropy(20 * similarity, wanted)
        return (loss, {}) if return_outputs else loss


def words(caption: str) -> str:
    """A caption without its article and full stop: the words whose embeddings a warm start aims at."""
    return re.sub(r"^(an?|the)\s+", "", caption.rstrip(". "), flags=re.IGNORECASE)


class CaptionWords:
    """The distinct captions of a training, in order, their token ids, and the mean embeddings (captions, D) of their words."""

    def __init__(self, vlm: VisionLanguageModel, captions: Sequence[str], answers: Sequence[Tensor]) -> None:
        self.vlm = vlm
        found = dict(zip(captions, answers, strict=True))
        self.texts = [words(caption) for caption in found]
        self.number = {tuple(answer.tolist()): place for place, answer in enumerate(found.values())}
        self.targets = torch.stack([self.embed(text) for text in self.texts])

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """Mean embedding (D) of a text's tokens, as within a sentence."""
        ids = self.vlm.llm.tokenizer(" " + text, add_special_tokens=False).input_ids
        return self.vlm.llm.embed(torch.tensor(ids)).mean(0).float()

    def tell_projector(self) -> None:
        """Give the words to a projector that asks for them; one that has been trained before keeps its weights."""
        projector = self.vlm.projector
        if not isinstance(projector, WordProjector):
            return
        before = copy.deepcopy(projector.state_dict())
        projector.start_from_words(self.texts, self.embed)
        if self.vlm.settings.projector.weights is not None:
            projector.load_state_dict(before)


def run_warm_start(
    vlm: VisionLanguageModel, train: CachedSamples, captions: CaptionWords, folder: Path, settings: TrainingConfig
) -> None:
    """Regress the projector onto word embeddings; see `WarmStart`."""
    trainer = WarmStart(
        vlm,
        train,
        None,
        captions=captions,
        output_dir=str(folder),
        max_steps=settings.warm_start_steps,
        per_device_train_batch_size=settings.warm_start_batch,
        learning_rate=settings.warm_start_learning_rate,
        warmup_steps=settings.warm_start_steps // 10,
        save_strategy="no",
    )
    trainer.train()
