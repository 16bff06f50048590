"""``parallel: zero3``: DeepSpeed shares every weight, its gradient and the state of its optimizer among the processes."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vita_core.errors import ConfigError
from vita_core.training import processes
from vita_core.training.distributed import OPTIMIZER, SCHEDULER, GatheringTrainer
from vita_core.training.joint import Joint
from vita_core.training.resumable import trained_state
from vita_core.weights.files import write_whole

__all__ = ["CONFIG", "Zero3Trainer", "load_deepspeed"]

CONFIG: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "reduce_bucket_size": 50_000_000,
    },
}
"""What DeepSpeed is told; transformers fills in ``auto``. No weight stays whole, however small, and the buffer of gradients on
their way has 50 million values instead of 500."""


def load_deepspeed(*, cpu: bool) -> None:
    """Import DeepSpeed, for the CPU or for what it finds. Raises ConfigError if it cannot be imported."""
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it warns that there is no GPU, or takes the one there is
    warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
    logging.getLogger("accelerate.accelerator").setLevel(logging.ERROR)  # Trainer does not tell it of `accumulate`
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"training.parallel: zero3 needs DeepSpeed, which cannot be imported: {error}. "
            "Try: `pip install 'vita-core[zero3]'`, or `parallel: fsdp2`, which shares as much"
        ) from error
    if cpu:  # an op that only inference uses, and that takes a compiler and two minutes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Zero3Trainer(GatheringTrainer):
    """Trains one stage by DeepSpeed's ZeRO-3. Afterwards the model's parameters are empty: read them by `trained`.

    With half precision, all weights have that dtype while the stage runs, frozen ones too; beside them, the trained ones are
    kept in float32. Without it, each part keeps its own dtype.
    """

    def __init__(self, joint: Joint, *arguments: Any, **keywords: Any) -> None:
        load_deepspeed(cpu=joint.model.llm.device.type == "cpu")
        super().__init__(joint, *arguments, deepspeed=CONFIG, **keywords)

    def trained(self) -> dict[str, Tensor]:
        """Return what is trained in float32, gathered one tensor after the other. Every process has to call it."""
        from deepspeed.utils import safe_get_full_fp32_param

        state = trained_state(self.model.model)
        weights = {name: safe_get_full_fp32_param(one).to("cpu", copy=True) for name, one in self._parameters()}
        return {name: value.to("cpu", copy=True) for name, value in state.items()} | weights

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trained` returned. Once the model is shared, only `trained` and the next step read it."""
        if self.deepspeed is None:
            super().load(state)
        else:
            from deepspeed.utils import safe_set_local_fp32_param

            shared = dict(self._parameters())
            for name, parameter in shared.items():
                safe_set_local_fp32_param(parameter, _own_share(state[name]))
            for name, buffer in trained_state(self.model.model).items():
                if name not in shared:
                    buffer.copy_(state[name])

    def release(self) -> None:
        """Let DeepSpeed and transformers forget this model: else the next one that is opened would be shared too."""
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        self.deepspeed.destroy()
        unset_hf_deepspeed_config()
        self.accelerator.free_memory()
        gc.collect()

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, one) for name, one in self.model.model.named_parameters() if one.requires_grad]

    def _prepare_for_training(self, max_steps: int, loader: Any, checkpoint: str | None) -> Any:
        """Share the model, with what was trained until a checkpoint. DeepSpeed's own checkpoints are pickled objects."""
        if checkpoint is not None:
            self._load_from_checkpoint(checkpoint)
        whole = trained_state(self.model.model)
        prepared = super()._prepare_for_training(max_steps, loader, None)
        self.load(whole)  # DeepSpeed has rounded it to half precision
        if checkpoint is not None:
            self._load_states(Path(checkpoint))
        return prepared

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        every = self.deepspeed.optimizer.state_dict()  # two of its values are objects of DeepSpeed's
        state = {**every, "zero_stage": 3, "loss_scaler": vars(every["loss_scaler"])}
        write_whole(self._own_file(Path(output_dir)), lambda path: torch.save(state, path))
        if self.args.should_save:
            write_whole(Path(output_dir) / SCHEDULER, lambda path: torch.save(self.lr_scheduler.state_dict(), path))

    def _load_states(self, checkpoint: Path) -> None:
        optimizer = self.deepspeed.optimizer
        state = torch.load(self._own_file(checkpoint), weights_only=True, map_location="cpu")
        vars(optimizer.loss_scaler).update(state["loss_scaler"])
        own = {**state, "loss_scaler": optimizer.loss_scaler}
        optimizer.load_state_dict([own] * processes.count())  # it takes that of its own number
        self.lr_scheduler.load_state_dict(torch.load(checkpoint / SCHEDULER, weights_only=True))

    def _own_file(self, checkpoint: Path) -> Path:
        return checkpoint / OPTIMIZER.replace(".", f"_{self.args.process_index}.")


def _own_share(value: Tensor) -> Tensor:
    """Return what this process keeps of a tensor: a piece of its flat values, of which the last is padded."""
    every = processes.count()
    flat = F.pad(value.flatten(), (0, -value.numel() % every))
    return flat.chunk(every)[torch.distributed.get_rank()]
