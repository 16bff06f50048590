"""A checkpoint's tensors, sorted by a layout's rules to the stages they belong to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import Layout, Rule, Stage
from vita_core.loading import Tensors

__all__ = ["Survey", "rule_of", "stage_tensors", "survey"]


@dataclass(frozen=True)
class Survey:
    """How many tensors each stage has in the files, and what is skipped, told."""

    counts: Counter[Stage]
    notes: tuple[str, ...]


def survey(layout: Layout, tensors: Tensors, where: str) -> Survey:
    """Sort every key of `tensors`, reading headers alone. Raises CheckpointError for keys that no rule knows, with examples,
    and for a file that is damaged or cut short."""
    counts: Counter[Stage] = Counter()
    skipped: Counter[str] = Counter()
    unknown = []
    for key, _ in tensors:
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
            f"{counts.total()} tensors are known"
        )
    return Survey(counts, tuple(reason.format(count=count) for reason, count in skipped.items()))


def stage_tensors(layout: Layout, tensors: Tensors, stage: Stage) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The tensors of one stage under the stage's own keys, as `vita_core.loading.Tensors`."""
    for key, read in tensors:
        rule = rule_of(layout, key)
        if rule is not None and rule.stage == stage:
            yield rule.own_key(key), read


def rule_of(layout: Layout, key: str) -> Rule | None:
    """The first of the layout's rules that matches; None where none does."""
    return next((rule for rule in layout.rules if re.search(rule.pattern, key)), None)
