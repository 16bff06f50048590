"""transformers' Trainer for one stage: it saves and resumes only what is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import broadcast
from transformers.trainer_utils import EvalLoopOutput

from vita_core.language.merging import IGNORED_LABEL
from vita_core.training import processes
from vita_core.training.joint import Joint, collate
from vita_core.training.parts import roots
from vita_core.training.resumable import ResumableTrainer, load_trained, on_cpu, trained_buffers, trained_state
from vita_core.training.stages import Stage

__all__ = ["StageTrainer"]


class StageTrainer(ResumableTrainer):
    """Trains the model of a `Joint` for one stage.

    `data` and `held_out` are datasets of what `collate` joins; `data` has the samples in the order in which they are seen.
    """

    shared = False
    """Whether each process keeps only a share of the model, which is then of no use for the next stage."""

    def __init__(
        self,
        joint: Joint,
        stage: Stage,
        data: Any,
        held_out: Any,
        folder: Path,
        *,
        steps: int,
        seed: int,
        **arguments: Any,
    ) -> None:
        settings, self.stage = stage.settings, stage
        share = settings.batch_size // settings.accumulate // processes.count()
        super().__init__(
            joint,
            collate,
            data,
            held_out,
            folder,
            max_steps=steps,
            per_device_train_batch_size=share,
            per_device_eval_batch_size=share,
            gradient_accumulation_steps=settings.accumulate,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule.replace("constant", "constant_with_warmup"),
            warmup_steps=math.ceil(settings.warmup * steps),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            bf16=settings.precision == "bfloat16",
            fp16=settings.precision == "float16",
            eval_steps=settings.eval_steps,
            save_steps=settings.save_steps,
            seed=seed,
            label_names=["labels"],
            use_cpu=joint.model.llm.device.type == "cpu",
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            **arguments,
        )
        torch.manual_seed(seed + self.args.process_index)  # the dropout of each process is its own

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Return AdamW, with the learning rate of each part. Norms and biases do not decay."""
        if vars(self).get("optimizer") is None:
            decayed, groups = set(self.get_decay_parameter_names(self.model)), []
            names = {id(parameter): name for name, parameter in self.model.named_parameters()}
            rates = {part: how.learning_rate for part, how in self.stage.parts.items() if how.learning_rate is not None}
            # the rate that is logged is that of the first group: the stage's own where a part has it
            for part, root in sorted(roots(self.model.model).items(), key=lambda found: found[0] in rates):
                rate = rates.get(part, self.args.learning_rate)
                trained = [parameter for parameter in root.parameters() if parameter.requires_grad]
                for decays in (True, False):
                    chosen = [p for p in trained if (names[id(p)] in decayed) == decays]
                    decay = self.args.weight_decay if decays else 0.0
                    groups += [{"params": chosen, "lr": rate, "weight_decay": decay}] if chosen else []
            kind, keywords = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups, **keywords)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss of the labelled tokens of the whole step, also if several processes share it."""
        count = num_items_in_batch
        if count is not None and self.args.world_size > 1:
            count = count / self.args.world_size  # the gradients of the processes are averaged
        loss = model(inputs, count)
        return (loss, {}) if return_outputs else loss

    def evaluation_loop(self, *_: Any, **__: Any) -> EvalLoopOutput:
        """Return the mean loss of the labelled tokens of the held-out samples. Each process takes a share of a batch."""
        held_out, args, model = self.eval_dataset, self.args, self.model
        mode, counted = model.training, torch.zeros(2, dtype=torch.float64, device=args.device)
        model.eval()
        self.share_statistics()
        for start in range(0, len(held_out), args.eval_batch_size * args.world_size):
            begin = start + args.process_index * args.eval_batch_size
            own = range(begin, min(begin + args.eval_batch_size, len(held_out)))
            batch = self._prepare_inputs(collate([held_out[index] for index in own or range(1)]))
            if not own:  # the last batch is shorter: this process only takes part in what the model exchanges
                batch["labels"].fill_(IGNORED_LABEL)
            with torch.no_grad():
                counted[0] += self.compute_loss(model, batch, num_items_in_batch=args.world_size)
            counted[1] += (batch["labels"] != IGNORED_LABEL).sum()
        model.train(mode)
        loss, tokens = self.accelerator.reduce(counted).tolist()
        return EvalLoopOutput(None, None, {"eval_loss": loss / max(1, tokens)}, len(held_out))

    def share_statistics(self) -> None:
        """Give all processes the trained batch statistics of the first one, which are those that are saved.

        DDP does so before each forward pass of a training. Every process has to call it.
        """
        if self.args.world_size > 1:
            for value in trained_buffers(self.model.model).values():
                broadcast(value, 0)

    def pictures(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of pictures and frames of a batch."""
        return len(inputs["pixels"])

    def trained(self) -> dict[str, Tensor]:
        """Return what is trained, on the CPU, by its names in the `VisionLanguageModel`. Every process has to call it."""
        return on_cpu(trained_state(self.model.model))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trained` returned."""
        load_trained(self.model.model, state)

    def release(self) -> None:
        """Let go of the model, whose parameters may not be read afterwards if it is `shared`."""
