"""Find the model's value for each tensor of the checkpoint that it came from, by applying the key rules in reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vita_core.errors import CheckpointError, VitaError
from vita_core.language.llm import LanguageModel
from vita_core.layouts.layout import Stage
from vita_core.loading import KeyRules
from vita_core.towers.tower import BaseVisionTower

__all__ = ["ModelValues"]

OTHER_SOURCE = "`vita export DIR --source DIR` (source=DIR in Python) with the checkpoint that it came from"


class ModelValues:
    """A model's tensors, found by their stage and their key in the checkpoint `where`.

    It records which tensors were compared, so that `left` can return the others.
    """

    def __init__(self, tower: BaseVisionTower, projector: nn.Module, llm: LanguageModel, where: str) -> None:
        if tower.encoder is None:
            raise VitaError(
                "the tower is not loaded, so it cannot be exported. Try: call model.tower.load_model() first"
            )
        self.where = where
        self.states: Mapping[Stage, Mapping[str, Tensor]] = {
            "tower": tower.encoder.state_dict(),
            "projector": projector.state_dict(),
            "llm": llm.published(),
        }
        self.rules: Mapping[Stage, KeyRules] = {"tower": tower.key_rules()}
        self.used: dict[Stage, set[str]] = {stage: set() for stage in self.states}

    def compared(self, stage: Stage, key: str, theirs: Tensor) -> tuple[bool | None, Tensor]:
        """Compare the checkpoint's tensor `theirs` with the model's value. Return whether they are equal, and what to write.

        Returns None and `theirs` for a tensor that the model did not load. The comparison uses the model's dtype, because
        opening a model in another dtype does not count as a change. Raises CheckpointError if the model did not come from
        this checkpoint.
        """
        rules = self.rules.get(stage, KeyRules())
        name = rules.renamed(key)
        if rules.skipped(name) is not None:
            return None, theirs
        targets = rules.targets(name)
        state = self.states[stage]
        if any(target not in state for target in targets):
            raise CheckpointError(
                f"this model did not come from {self.where}: it has no {stage} {key}. Try: {OTHER_SOURCE}"
            )
        self.used[stage].update(targets)
        parts = [state[target].detach().cpu() for target in targets]
        ours = parts[0] if len(parts) == 1 else torch.cat(parts)
        if ours.shape != theirs.shape:
            shapes = f"{tuple(theirs.shape)} instead of {tuple(ours.shape)}"
            raise CheckpointError(
                f"this model did not come from {self.where}: {stage} {key} has shape {shapes}. Try: {OTHER_SOURCE}"
            )
        if torch.equal(theirs.to(ours.dtype), ours):
            return True, theirs
        return False, ours.to(theirs.dtype).contiguous()

    def left(self) -> Iterator[str]:
        """Yield the keys of the model's tensors that were not compared, except those that are tied to a compared one."""
        for stage, state in self.states.items():
            written = {state[key].data_ptr() for key in self.used[stage]}
            yield from (f"{stage} {key}" for key, tensor in state.items() if tensor.data_ptr() not in written)
