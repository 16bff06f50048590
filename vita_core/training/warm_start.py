"""Warm start: train the projector to predict the words of the captions, without running the language model."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vita_core.language.tokenizing import tokenized
from vita_core.models.model import VisionLanguageModel
from vita_core.protocol import WordProjector
from vita_core.training.align import IGNORE, CachedSamples, ProjectorTrainer, projected
from vita_core.training.reporters import reporting
from vita_core.training.reporting import Progress

__all__ = ["CaptionWords", "run_warm_start"]


class WarmStart(ProjectorTrainer):
    """Trains projected tokens to be, on average, the mean embedding of their caption's words, and closer to it than to others.

    A `WordProjector` is trained on its own loss instead.
    """

    def __init__(self, *args: Any, captions: CaptionWords, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets, self.number = captions.targets, captions.number
        self.centre, self.variance = self.targets.mean(0), self.targets.var()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Return the loss: the projector's own for a `WordProjector`, else a sum of two terms.

        These are the squared error of every token, divided by the variance of the targets, and the cross-entropy of the
        cosine similarities to all captions.
        """
        keys = [tuple(int(i) for i in row if i != IGNORE) for row in inputs["answer_ids"]]
        wanted = torch.tensor([self.number[key] for key in keys], device=self.targets.device)
        if isinstance(model, WordProjector):
            loss = model.word_loss(inputs["features"], wanted)
            return (loss, {}) if return_outputs else loss
        tokens = projected(model, inputs)
        errors = [seen - target for seen, target in zip(tokens, self.targets[wanted], strict=True)]
        error = torch.cat(errors).pow(2).mean() / self.variance
        direction = F.normalize(torch.stack([seen.mean(0) for seen in tokens]) - self.centre, dim=-1)
        similarity = direction @ F.normalize(self.targets - self.centre, dim=-1).T
        loss = error + F.cross_entropy(20 * similarity, wanted)
        return (loss, {}) if return_outputs else loss


def words(caption: str) -> str:
    """Return a caption without its article and full stop: the words whose embeddings are the target of the warm start."""
    return re.sub(r"^(an?|the)\s+", "", caption.rstrip(". "), flags=re.IGNORECASE)


class CaptionWords:
    """The distinct captions of a training in order, with their token ids and the mean embeddings (captions, D) of their words."""

    def __init__(self, vlm: VisionLanguageModel, captions: Sequence[str], answers: Sequence[Tensor]) -> None:
        self.vlm = vlm
        found = dict(zip(captions, answers, strict=True))
        self.texts = [words(caption) for caption in found]
        self.number = {tuple(answer.tolist()): place for place, answer in enumerate(found.values())}
        self.targets = torch.stack([self.embed(text) for text in self.texts])

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """Return the mean embedding (D) of the tokens of a text, tokenized as inside a sentence."""
        ids = tokenized(self.vlm.llm.tokenizer, " " + text, add_special_tokens=False).input_ids
        return self.vlm.llm.embed(torch.tensor(ids)).mean(0).float()

    def tell_projector(self) -> None:
        """Initialise a `WordProjector` from the words. A projector that is already trained keeps its weights."""
        projector = self.vlm.projector
        if not isinstance(projector, WordProjector):
            return
        before = copy.deepcopy(projector.state_dict())
        projector.start_from_words(self.texts, self.embed)
        if self.vlm.settings.projector.weights is not None:
            projector.load_state_dict(before)


def run_warm_start(
    vlm: VisionLanguageModel, trained: nn.Module, train: CachedSamples, captions: CaptionWords, out: Path
) -> None:
    """Train what `connect` returned to predict word embeddings, starting from the last checkpoint; see `WarmStart`."""
    settings = vlm.settings.training
    with reporting(settings.report_to, out, "warm-start"):
        trainer = WarmStart(
            vlm,
            trained,
            train,
            None,
            out / "work" / "warm-start",
            captions=captions,
            max_steps=settings.warm_start_steps,
            per_device_train_batch_size=settings.warm_start_batch,
            learning_rate=settings.warm_start_learning_rate,
            warmup_steps=settings.warm_start_steps // 10,
            progress=Progress("warm-start", out / "metrics.jsonl"),
        )
        trainer.fit()
