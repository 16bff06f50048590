"""Assign each tensor of a checkpoint to its stage, by its key. No tensor is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import Layout, Rule, Stage

__all__ = ["NON_LORA", "Part", "Survey", "rule_of", "survey", "unwrapped"]

NON_LORA = "non_lora_trainables.bin"
"""The file of LLaVA's and VITA's LoRA training with the fully trained tensors, such as the projector's."""
# peft wraps the model twice, so the model's own keys follow `base_model.model.`
WRAPPED = re.compile(r"^(?:base_model\.)?(?:model\.(?=model\.|lm_head\.))?")


@dataclass(frozen=True)
class Part:
    """The tensors of one `stage` in the `files` of a checkpoint.

    Without a `layout` every tensor belongs to the stage, under its own key. `trained` is a ``non_lora_trainables.bin``,
    whose tensors replace those of the files.
    """

    files: tuple[Path, ...]
    stage: Stage
    layout: Layout | None = None
    trained: Path | None = None

    def own_key(self, key: str) -> str | None:
        """Return the stage's own key for the tensor with this key, or None if the tensor belongs to another stage."""
        if self.layout is None:
            return key
        rule = rule_of(self.layout, key)
        return rule.own_key(key) if rule is not None and rule.stage == self.stage else None


@dataclass(frozen=True)
class Survey:
    """The number of tensors of each stage, and a note for each group of skipped tensors."""

    counts: Counter[Stage]
    notes: tuple[str, ...]


def survey(layout: Layout, keys: Iterable[str], where: str) -> Survey:
    """Count the `keys` of each stage. Raises CheckpointError with examples for keys that match no rule."""
    counts: Counter[Stage] = Counter()
    skipped: Counter[str] = Counter()
    unknown = []
    for key in keys:
        rule = rule_of(layout, key)
        if rule is None:
            unknown.append(key)
        elif rule.stage is None:
            skipped[rule.reason] += 1
        else:
            counts[rule.stage] += 1
    if unknown:
        examples = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise CheckpointError(
            f"{where} does not have {layout.name}'s layout: {len(unknown)} unexpected tensors ({examples}); "
            f"{counts.total()} tensors are known. Try: the checkpoint as its authors published it"
        )
    return Survey(counts, tuple(reason.format(count=count) for reason, count in skipped.items()))


def rule_of(layout: Layout, key: str) -> Rule | None:
    """Return the first of the layout's rules that matches `key`, or None."""
    return next((rule for rule in layout.rules if re.search(rule.pattern, key)), None)


def unwrapped(key: str) -> str:
    """Return the model's own key of a tensor that was saved with peft's prefix."""
    return WRAPPED.sub("", key, count=1)
