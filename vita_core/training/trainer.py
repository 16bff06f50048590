"""transformers' Trainer for one stage: it saves and resumes only what is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from vita_core.errors import ConfigError
from vita_core.language.merging import IGNORED_LABEL
from vita_core.training import processes
from vita_core.training.joint import Joint, collate
from vita_core.training.parts import roots
from vita_core.training.stages import Stage
from vita_core.weights.files import write_whole

__all__ = ["StageTrainer", "last_checkpoint", "load_trained", "on_cpu", "trained_state"]

WEIGHTS = "trained.safetensors"
"""The file of a checkpoint with the weights that its stage trains."""


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require gradients, and the buffers of modules in train mode that have any of these."""
    state = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for prefix, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            own = {name for name, _ in module.named_buffers(recurse=False)} - module._non_persistent_buffers_set
            state |= {f"{prefix}.{name}".lstrip("."): getattr(module, name) for name in own}
    return {name: value.detach() for name, value in state.items()}


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, whole ones of those that the processes share. Every process has to call it."""
    whole = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}
    return {name: value.to("cpu").contiguous() for name, value in whole.items()}


def load_trained(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `trained_state` returned of the same model, whose parts are prepared in the same way."""
    own = trained_state(model)
    if differing := sorted(state.keys() ^ own.keys()):
        raise ConfigError(
            f"--out: its checkpoint has other weights than this training: {len(differing)} differ, such as {differing[0]}. "
            "Try: another directory for --out"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trains the model of a `Joint` for one stage.

    `data` and `held_out` are datasets of what `collate` joins; `data` has the samples in the order in which they are seen.
    """

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
        keep: int,
        callbacks: Sequence[TrainerCallback] = (),
        **arguments: Any,
    ) -> None:
        settings, self.stage = stage.settings, stage
        share = settings.batch_size // settings.accumulate // processes.count()
        args = TrainingArguments(
            output_dir=str(folder),
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
            eval_strategy="steps" if held_out is not None else "no",
            eval_steps=settings.eval_steps,
            save_steps=settings.save_steps,
            save_total_limit=keep,
            seed=seed,
            data_seed=seed,
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=[],
            logging_steps=1,
            use_cpu=joint.model.llm.device.type == "cpu",
            dataloader_pin_memory=False,
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
            **arguments,
        )
        args._n_gpu = min(1, args.n_gpu)  # else transformers splits the batch over all GPUs by itself
        super().__init__(joint, args, collate, data, held_out, callbacks=list(callbacks))
        self.remove_callback(PrinterCallback)
        torch.manual_seed(seed + self.args.process_index)  # the dropout of each process is its own

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Return AdamW, with the learning rate of each part. Norms and biases do not decay."""
        if vars(self).get("optimizer") is None:
            decayed, groups = set(self.get_decay_parameter_names(self.model)), []
            names = {id(parameter): name for name, parameter in self.model.named_parameters()}
            for part, root in roots(self.model.model).items():
                how = self.stage.parts.get(part)
                rate = self.args.learning_rate if how is None or how.learning_rate is None else how.learning_rate
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

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        """Return the samples in order: they are already shuffled."""
        return SequentialSampler(self.train_dataset)

    def evaluation_loop(self, *_: Any, **__: Any) -> EvalLoopOutput:
        """Return the mean loss of the labelled tokens of the held-out samples. Each process takes a share of a batch."""
        held_out, args, model = self.eval_dataset, self.args, self.model
        mode, counted = model.training, torch.zeros(2, dtype=torch.float64, device=args.device)
        model.eval()
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained to a checkpoint, not the whole model."""
        state = on_cpu(trained_state(self.model))
        if self.args.should_save:
            write_whole(Path(output_dir or self.args.output_dir) / WEIGHTS, lambda path: save_file(state, path))

    def _save_rng_state(self, output_dir: str) -> None:
        """Write the state of this process's random numbers, and wait for the others: `last_checkpoint` relies on it."""
        super()._save_rng_state(output_dir)
        processes.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model, read_trained(resume_from_checkpoint))


def read_trained(checkpoint: str) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, by their names in the `Joint`."""
    return load_file(Path(checkpoint) / WEIGHTS)


def last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint in a folder that was written to its end: its ``trainer_state.json`` comes last."""
    found = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*")}
    for _, path in sorted(found.items(), reverse=True):
        with suppress(OSError, ValueError):
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return str(path)
    return None
