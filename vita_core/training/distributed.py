"""Trainers of a model whose weights are shared among the processes, and that of ``parallel: fsdp2``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import EvalLoopOutput

from vita_core.errors import PluginError
from vita_core.towers.whole import find_blocks
from vita_core.training import processes
from vita_core.training.joint import Joint
from vita_core.training.parts import encoders
from vita_core.training.trainer import StageTrainer

__all__ = ["OPTIMIZER", "SCHEDULER", "GatheringTrainer", "ShardedTrainer"]

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
"""Checkpoints hold whole tensors, as those of one process do."""
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"


def shard(joint: Joint) -> None:
    """Share the parameters of a model among the processes, frozen ones too. They are DTensors afterwards.

    A block of the encoder or the language model is whole only while it runs, and all else is during a step.
    """
    mesh = init_device_mesh(joint.model.llm.device.type, (processes.count(),))
    parts = [(tower.vision_tower, tower.block_path) for tower in encoders(joint.model.tower)]
    for root, path in (*parts, (joint.model.llm.model, None)):
        assert root is not None  # the parts of a stage are prepared, so that the tower is loaded
        with suppress(PluginError):  # it has no list of blocks
            for block in find_blocks(root, path):
                fully_shard(block, mesh=mesh)
    fully_shard(joint, mesh=mesh)


class GatheringTrainer(StageTrainer):
    """Trains one stage on a model that is shared among the processes. The model stays so afterwards."""

    shared = True

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
        """Return the loss of `StageTrainer`. Each process encodes equally many pictures, blank ones too.

        The weights of a block are gathered whenever it runs, and all processes have to take part.
        """
        own = sum(len(pixels) for pixels in inputs["pixels"])
        most = torch.tensor(max(1, own), device=self.args.device)
        all_reduce(most, ReduceOp.MAX)
        if model.training:
            self.share_statistics()
        return super().compute_loss(model, {**inputs, "blanks": int(most) - own}, *arguments, **keywords)


class ShardedTrainer(GatheringTrainer):
    """Trains one stage on a model that torch's ``fully_shard`` shares."""

    def __init__(self, joint: Joint, *arguments: Any, **keywords: Any) -> None:
        super().__init__(joint, *arguments, **keywords)
        shard(joint)
        prepare = self.accelerator.prepare_model
        # only the autocast of bf16 and fp16: accelerate would wrap the model in DDP
        self.accelerator.prepare_model = lambda model, **_: prepare(model, device_placement=False, evaluation_mode=True)

    def evaluation_loop(self, *arguments: Any, **keywords: Any) -> EvalLoopOutput:
        """Return what `StageTrainer` returns. The parameters are shared again afterwards."""
        output = super().evaluation_loop(*arguments, **keywords)
        self.model.reshard()  # without a backward pass, the last weights that were gathered would stay
        return output

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trained` returned into the share of this process."""
        named: dict[str, Any] = {f"model.{name}": value for name, value in state.items()}  # the root is the `Joint`
        set_model_state_dict(self.model, named, options=WHOLE)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=WHOLE)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state, schedule = (
                torch.load(Path(checkpoint) / name, weights_only=True) for name in (OPTIMIZER, SCHEDULER)
            )
            set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=WHOLE)
            self.lr_scheduler.load_state_dict(schedule)
