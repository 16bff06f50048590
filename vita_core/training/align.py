"""Alignment: train projector and reductions on the loss of the frozen language model, with transformers' Trainer."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from vita_core.language.generating import cache_keyword
from vita_core.language.llm import PICTURE_ID
from vita_core.language.projectors import project
from vita_core.models.model import VisionLanguageModel
from vita_core.protocol import WordProjector
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.reporters import reporting
from vita_core.training.reporting import Progress
from vita_core.training.resumable import ResumableTrainer

__all__ = ["IGNORE", "CachedSamples", "ProjectorTrainer", "Rows", "projected", "run_alignment"]

IGNORE = -100


@dataclass(frozen=True)
class Rows:
    """The samples of a phase, and the group (data set) of each."""

    indices: list[int]
    groups: list[int]


class CachedSamples(Dataset[dict[str, Tensor]]):
    """A dataset of cached features with the token ids of their answers.

    It has `draws` random items: each is a random variant of a random sample, and all data sets are drawn equally often. An
    item depends only on the seed and its index, so a resumed run sees the same items as an uninterrupted one. If `draws`
    is None (held-out samples), every sample appears once and unchanged.
    """

    def __init__(self, cache: FeatureCache, rows: Rows, answers: Sequence[Tensor], draws: int | None = None) -> None:
        self.cache, self.rows, self.answers, self.draws = cache, rows, answers, draws
        pairs = list(zip(rows.indices, rows.groups, strict=True))
        self.groups = [[index for index, of in pairs if of == group] for group in sorted(set(rows.groups))]
        jitters = draws is not None and cache.config.training.moment_jitter > 0
        self.moments = [_moments(cache, group) for group in self.groups] if jitters else []

    def __len__(self) -> int:
        return len(self.rows.indices) if self.draws is None else self.draws

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        if self.draws is None:
            index = self.rows.indices[item]
            return self._item(self.cache.features(0, index), 0, index)
        settings = self.cache.config.training
        rng = random.Random(f"{settings.seed}-{self.draws}-{item}")
        group = rng.randrange(len(self.groups))
        index, copy = rng.choice(self.groups[group]), rng.randrange(self.cache.copies)
        features = self.cache.features(copy, index)
        if self.moments:
            features = self._moved(features, group, rng)
        return self._item(features, copy, index)

    def _item(self, features: Tensor, copy: int, index: int) -> dict[str, Tensor]:
        return {"features": features, "grid": self.cache.grid(copy, index), "answer_ids": self.answers[index]}

    def _moved(self, features: Tensor, group: int, rng: random.Random) -> Tensor:
        """Shift and scale features (N, C) of a data set towards the mean and deviation of a random one, maybe its own."""
        (mean, deviation), (other_mean, other_deviation) = self.moments[group], rng.choice(self.moments)
        way = rng.uniform(0, self.cache.config.training.moment_jitter)
        scale = (deviation + way * (other_deviation - deviation)) / deviation
        return (features - mean) * scale + mean + way * (other_mean - mean)


def _moments(cache: FeatureCache, group: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the mean and deviation (C) of the features of a data set.

    They are computed over all copies, so that a constant channel (a dead unit) stays at its mean although its deviation is
    tiny.
    """
    values = torch.cat([cache.features(copy, index) for copy in range(cache.copies) for index in group])
    return values.mean(0), values.std(0, unbiased=False) + 1e-6


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join samples to features (B, N, C) with their numbers of tokens (B) and grids (B, 2), and answer ids (B, A).

    The answers are padded with -100. A sample without a grid has zeros for it.
    """
    features, answers = [row["features"] for row in rows], [row["answer_ids"] for row in rows]
    none = torch.zeros(2, dtype=torch.int32)
    return {
        "features": pad_sequence(features, batch_first=True),
        "tokens": torch.tensor([len(tokens) for tokens in features]),
        "grids": torch.stack([row.get("grid", none) for row in rows]),
        "answer_ids": pad_sequence(answers, batch_first=True, padding_value=IGNORE),
    }


def projected(projector: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the projected tokens (N, D) of each sample. Those with equally many tokens, in equal grids, go through together."""
    output: dict[int, Tensor] = {}
    sizes = torch.cat([inputs["tokens"][:, None], inputs["grids"]], dim=1)
    for size in sizes.unique(dim=0):
        where = (sizes == size).all(1).nonzero().flatten()
        count, *grid = size.tolist()
        tokens = project(projector, inputs["features"][where, :count], tuple(grid) if all(grid) else None)
        output |= zip(where.tolist(), tokens, strict=True)
    return [output[index] for index in range(len(output))]


class ProjectorTrainer(ResumableTrainer):
    """A trainer whose model is only what is trained (see `connect`). Nothing else is saved, moved or optimised."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        trained: nn.Module,
        train: CachedSamples,
        held_out: CachedSamples | None,
        folder: Path,
        **arguments: Any,
    ) -> None:
        self.vlm, settings = vlm, vlm.settings.training
        super().__init__(
            trained,
            collate,
            train,
            held_out,
            folder,
            seed=settings.seed,
            lr_scheduler_type="cosine",
            weight_decay=settings.weight_decay,
            save_steps=settings.save_steps,
            keep=settings.keep,
            report_to=settings.report_to,
            label_names=["answer_ids"],
            use_cpu=vlm.llm.device.type == "cpu",
            dataloader_pin_memory=vlm.llm.device.type != "cpu",
            **arguments,
        )

    def pictures(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of pictures of a batch: each sample is one."""
        return len(inputs["tokens"])

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return transformers' choice without the parameters in the projector's `undecayed`."""
        kept = model.undecayed if isinstance(model, WordProjector) else ()
        return [name for name in super().get_decay_parameter_names(model) if name not in kept]


class Alignment(ProjectorTrainer):
    """Trains on the loss of the frozen language model, which reads prompt, projected tokens and answer.

    Only the answer's tokens count in the loss.
    """

    @functools.cached_property
    def prompt(self) -> tuple[Any, Tensor]:
        """The keys and values of the prompt before the picture, and the embeddings (T, D) of the prompt after it.

        They are computed once. The former is None if the picture comes first.
        """
        llm, settings = self.vlm.llm, self.vlm.settings.prompt
        ids = llm.prompt(settings, settings.question, 1)
        place = ids.index(PICTURE_ID)
        before, after = (
            torch.tensor(part, dtype=torch.long, device=llm.device) for part in (ids[:place], ids[place + 1 :])
        )
        with torch.no_grad():
            read = llm.model.base_model(input_ids=before[None], use_cache=True) if place else None
            return read and read[cache_keyword()], llm.embed(after)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Return the mean cross-entropy of the answer's tokens. The head only runs on their positions."""
        llm, (prefix, after) = self.vlm.llm, self.prompt
        answers, words = inputs["answer_ids"], llm.embed(inputs["answer_ids"].clamp(min=0))
        tokens = projected(model, inputs)
        rows = [torch.cat([seen.to(llm.dtype), after, row]) for seen, row in zip(tokens, words, strict=True)]
        embeds = pad_sequence(rows, batch_first=True)
        cache = copy.deepcopy(prefix)
        if cache is not None:
            cache.batch_repeat_interleave(len(rows))
        # padding only comes after the answers, where causal attention does not look, so no mask is needed
        read = llm.model.base_model(inputs_embeds=embeds, use_cache=cache is not None, **{cache_keyword(): cache})
        hidden = read.last_hidden_state
        counted, count = answers != IGNORE, answers.shape[1]
        before = torch.stack(
            [states[len(row) - count - 1 : len(row) - 1] for row, states in zip(rows, hidden, strict=True)]
        )
        logits = llm.model.get_output_embeddings()(before[counted])
        loss = F.cross_entropy(logits.float(), answers[counted])
        return (loss, {}) if return_outputs else loss


def run_alignment(
    vlm: VisionLanguageModel, trained: nn.Module, train: CachedSamples, held_out: CachedSamples | None, out: Path
) -> dict[str, Any]:
    """Train on the language model's loss, starting from the last checkpoint in ``out/work``. Return the losses."""
    settings = vlm.settings.training
    with reporting(settings.report_to, out, "alignment"):
        trainer = Alignment(
            vlm,
            trained,
            train,
            held_out,
            out / "work" / "alignment",
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            eval_steps=settings.eval_steps,
            progress=Progress("alignment", out / "metrics.jsonl"),
            ends_with_best=settings.best,
        )
        return trainer.fit()
