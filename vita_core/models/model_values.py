"""What a model holds in the place of each tensor of the checkpoint it came from: the key rules, read backwards."""

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


class ModelValues:
    """A model's tensors, by stage and the stage's own (checkpoint) key, beside those of the checkpoint `where`.

    What was asked for is remembered.
    """

    def __init__(self, tower: BaseVisionTower, projector: nn.Module, llm: LanguageModel, where: str) -> None:
        if tower.encoder is None:
            raise VitaError(
                "the tower is not loaded, so there is nothing to export: call model.tower.load_model() first"
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
        """Whether the model's value of a checkpoint's tensor `theirs` is the same, and what to write; None and `theirs` where
        the model does not hold it. Raises CheckpointError where the two do not belong together.

        Compared in the model's dtype: a model opened in another one than it was saved in has not changed by that.
        """
        rules = self.rules.get(stage, KeyRules())
        name = rules.renamed(key)
        if rules.skipped(name) is not None:
            return None, theirs
        targets = rules.targets(name)
        state = self.states[stage]
        if any(target not in state for target in targets):
            raise CheckpointError(f"{self.where} is not what this model came from: the model has no {stage} {key}")
        self.used[stage].update(targets)
        parts = [state[target].detach().cpu() for target in targets]
        ours = parts[0] if len(parts) == 1 else torch.cat(parts)
        if ours.shape != theirs.shape:
            shapes = f"{tuple(theirs.shape)} for {tuple(ours.shape)}"
            raise CheckpointError(f"{self.where} is not what this model came from: {stage} {key} has shape {shapes}")
        if torch.equal(theirs.to(ours.dtype), ours):
            return True, theirs
        return False, ours.to(theirs.dtype).contiguous()

    def left(self) -> Iterator[str]:
        """Keys of parameters that no tensor of the source was written from, but for those tied to one that was."""
        for stage, state in self.states.items():
            written = {state[key].data_ptr() for key in self.used[stage]}
            yield from (f"{stage} {key}" for key, tensor in state.items() if tensor.data_ptr() not in written)
