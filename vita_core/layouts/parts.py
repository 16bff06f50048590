"""Whose each tensor of a checkpoint is, by its key alone. No tensor is read."""

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
"""What LLaVA's and VITA's LoRA training saves beside the adapter: what was trained in full, such as the projector."""
# peft wraps the model twice: `base_model.model.` stands before the model's own keys
WRAPPED = re.compile(r"^(?:base_model\.)?(?:model\.(?=model\.|lm_head\.))?")


@dataclass(frozen=True)
class Part:
    """The tensors of one `stage` inside the `files` of a checkpoint.

    Without a `layout` every tensor belongs to the stage, under its own key. `trained` is a ``non_lora_trainables.bin``,
    whose tensors replace those of the files.
    """

    files: tuple[Path, ...]
    stage: Stage
    layout: Layout | None = None
    trained: Path | None = None

    def own_key(self, key: str) -> str | None:
        """What the stage calls the tensor of this key; None where the tensor belongs to another stage."""
        if self.layout is None:
            return key
        rule = rule_of(self.layout, key)
        return rule.own_key(key) if rule is not None and rule.stage == self.stage else None


@dataclass(frozen=True)
class Survey:
    """How many tensors each stage has, and a note for each group of tensors that is skipped."""

    counts: Counter[Stage]
    notes: tuple[str, ...]


def survey(layout: Layout, keys: Iterable[str], where: str) -> Survey:
    """Sort `keys` to the stages that they belong to. Raises CheckpointError for keys that no rule knows, with examples."""
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
            f"{where} is not {layout.name}'s layout: {len(unknown)} unexpected tensors ({examples}); "
            f"{counts.total()} tensors are known. Try: the checkpoint as its authors published it"
        )
    return Survey(counts, tuple(reason.format(count=count) for reason, count in skipped.items()))


def rule_of(layout: Layout, key: str) -> Rule | None:
    """The first of the layout's rules that matches; None where none does."""
    return next((rule for rule in layout.rules if re.search(rule.pattern, key)), None)


def unwrapped(key: str) -> str:
    """The model's own key of a tensor that was saved from inside peft's wrapper."""
    return WRAPPED.sub("", key, count=1)
