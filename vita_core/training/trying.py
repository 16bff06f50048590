"""Run two steps of each stage of a training, to know its memory and the time that the whole takes. Nothing is kept."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from vita_core.config.training import CacheConfig
from vita_core.interrupts import temporary_directory
from vita_core.models.model import VisionLanguageModel
from vita_core.planning.resolution import Resolved
from vita_core.training.data.rejecting import RejectedLog
from vita_core.training.recomputing import recomputing
from vita_core.training.running import built, checked_stages, prepared
from vita_core.training.sets import Sets
from vita_core.training.stages import Stage
from vita_core.training.trainer import StageTrainer

__all__ = ["Tried", "try_stages"]

STEPS = 2
"""The first step allocates the memory of the optimiser, and the second one is measured."""


@dataclass(frozen=True)
class Tried:
    """What a stage will take: its `steps` of `step_seconds` each, and `seconds` with the held-out losses.

    `peak_bytes` is the largest memory so far: that of tensors on a GPU, else the resident memory of the process.
    """

    stage: str
    steps: int
    step_seconds: float
    seconds: float
    peak_bytes: int


def try_stages(resolved: Resolved, *, strict: bool = False, only: str | None = None) -> list[Tried]:
    """Build everything, and run two steps of each stage on its first samples. Raises as `run_stages`."""
    stages, sets = checked_stages(resolved, only)
    torch.manual_seed(resolved.config.training.seed)
    model = built(_without_shared_cache(resolved), stages)
    with temporary_directory("vita-dry-run-") as scratch:
        log = RejectedLog(scratch / "rejected.jsonl", strict=strict)
        return [_try(model, stage, sets, scratch / stage.name, log) for stage in stages]


def _without_shared_cache(resolved: Resolved) -> Resolved:
    """Return a `Resolved` whose cache is a directory of its own: other runs read, and may lose, what is in a shared one."""
    training = resolved.config.training
    if not isinstance(training.cache, CacheConfig):
        return resolved
    own = training.model_copy(update={"cache": training.cache.model_copy(update={"path": None})})
    return replace(resolved, config=resolved.config.model_copy(update={"training": own}))


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time, reading of the samples included."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def _try(model: VisionLanguageModel, stage: Stage, sets: Sets, folder: Path, log: RejectedLog) -> Tried:
    joint, data, held_out, _ = prepared(model, stage, sets, folder.parent / "cache", log)
    clock, seed = _Clock(), model.settings.training.seed
    trainer = StageTrainer(
        joint, stage, data, None, folder, steps=STEPS, seed=seed, keep=1, callbacks=[clock], save_strategy="no"
    )
    with recomputing(joint, stage):
        trainer.train()
    steps, each = len(data) // stage.settings.batch_size, clock.ends[-1] - clock.ends[-2]
    scored = 0 if held_out is None else len(held_out) * (1 + steps // stage.settings.eval_steps)
    seconds = each * (steps + scored / stage.settings.batch_size / 3)  # a forward pass is a third of a step
    return Tried(stage.name, steps, each, seconds, _peak())


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
