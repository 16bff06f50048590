"""Score how many answers name what the picture shows, and how many would match the caption of a random other picture."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vita_core.models.model import VisionLanguageModel
from vita_core.models.pictures import Prepared
from vita_core.pixels.prefetching import prefetched
from vita_core.training.data import Sample

__all__ = ["evaluate", "name_of", "named_and_shuffled", "names_it"]

WORDS = 8


def names_it(answer: str, caption: str, names: Sequence[str] = ()) -> bool:
    """Return whether the first eight words of the answer contain the last word of the caption, or one of `names`.

    Only whole words count. Case is ignored.
    """
    said = " ".join(_words(answer)[:WORDS])
    wanted = [_words(caption)[-1:], *(_words(name) for name in names)]
    return any(re.search(rf"(?<!\S){re.escape(' '.join(name))}(?!\S)", said) for name in wanted if name)


def name_of(caption: str, names: Sequence[str] = ()) -> str:
    """Return what a caption names, in lower case: the first of `names`, or its last word. It may be empty."""
    return " ".join(_words(names[0]) if names else _words(caption)[-1:])


def _words(text: str) -> list[str]:
    return [word for word in (part.strip(".,;:!?\"'()") for part in text.casefold().split()) if word]


def named_and_shuffled(
    samples: Sequence[Sample], answers: Sequence[str], seed: int = 0
) -> tuple[list[bool], list[bool]]:
    """Return whether each answer names what its picture shows, and whether it names what a random other picture shows."""
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    named = [names_it(answer, sample.caption, sample.names) for answer, sample in zip(answers, samples, strict=True)]
    others = [samples[place] for place in order]
    return named, [names_it(answer, one.caption, one.names) for answer, one in zip(answers, others, strict=True)]


def evaluate(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    *,
    question: str | None = None,
    batch: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask about every picture and score the answers.

    Returns ``{"n", "named", "shuffled", "answers"}``. `named` is the share (0 to 1) of answers that name what the picture
    shows. `shuffled` is the same share with the captions shuffled among the pictures.
    """
    texts: list[str] = []

    def read(path: Path) -> Prepared:
        return model.prepare(path).copied(model.tower.device)

    with prefetched([sample.image for sample in samples], read, batch=batch) as batches:
        for pictures in tqdm(batches, desc="eval", unit="batch", total=math.ceil(len(samples) / batch), disable=None):
            texts += [row.text for row in model.ask_each(pictures, question)]
    named, shuffled = named_and_shuffled(samples, texts, seed)
    return {
        "n": len(samples),
        "named": sum(named) / len(samples),
        "shuffled": sum(shuffled) / len(samples),
        "answers": [
            {"image": str(sample.image), "caption": sample.caption, "answer": text, "named": hit}
            for sample, text, hit in zip(samples, texts, named, strict=True)
        ],
    }
