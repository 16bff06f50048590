"""What every training has: checkpoints of what is trained, the best weights, one bar, reporters, and an end by Ctrl-C."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from vita_core.errors import ConfigError, VitaError
from vita_core.training import processes
from vita_core.training.checkpoints import drop_halves, drop_old, last_checkpoint, seal
from vita_core.training.reporting import Progress
from vita_core.training.stopping import StopOnInterrupt
from vita_core.untrusted.tensorfiles import stated
from vita_core.weights.files import filling, write_whole, writing

__all__ = ["BEST", "ResumableTrainer", "load_trained", "on_cpu", "trained_state", "write_tensors"]

WEIGHTS, BEST = "trained.safetensors", "best.safetensors"
"""The files with what is trained: of a checkpoint, and of the step with the lowest held-out loss."""


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require gradients, and the saved buffers of modules that have any of these."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return state | trained_buffers(model)


def trained_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the saved buffers of modules that have parameters that require gradients, such as batch statistics."""
    found = {}
    for prefix, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            for name, value in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    found[f"{prefix}.{name}".lstrip(".")] = value.detach()
    return found


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


def write_tensors(path: Path, state: Mapping[str, Tensor], **stated: str) -> None:
    """Write tensors and what is `stated` beside them to a safetensors file, atomically. Raises VitaError."""
    tensors, needed = dict(state), sum(value.nbytes for value in state.values())
    write_whole(path, lambda partial: save_file(tensors, partial, metadata=stated or None), needed)


class ResumableTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """A Trainer of one phase of a training, which can be stopped or killed at any moment, and goes on to the same bits.

    `data` and `held_out` are datasets of what `collate` joins; `data` has the samples in the order in which they are seen.
    The last `keep` checkpoints in `folder` hold only what is trained. If there are held-out samples, `BEST` is beside them: what
    is trained at the step with the lowest held-out loss, the first of equal ones. If `ends_with_best`, that is the result.
    """

    def __init__(
        self,
        model: nn.Module,
        collate: Any,
        data: Any,
        held_out: Any,
        folder: Path,
        *,
        keep: int,
        progress: Progress | None = None,
        ends_with_best: bool = False,
        report_to: Sequence[str] = (),
        callbacks: Sequence[TrainerCallback] = (),
        **arguments: Any,
    ) -> None:
        self.progress, self.keep, self.ends_with_best, self.stop = progress, keep, ends_with_best, StopOnInterrupt()
        self.file = folder / BEST
        self.best = _stated(self.file)
        args = TrainingArguments(
            output_dir=str(folder),
            data_seed=arguments["seed"],
            eval_strategy="steps" if held_out is not None else "no",
            remove_unused_columns=False,
            report_to=list(report_to),
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would log 0.0 instead
            disable_tqdm=True,
            **arguments,
        )
        args._n_gpu = min(1, args.n_gpu)  # else transformers splits the batch over all GPUs by itself
        shown = [] if progress is None else [progress]
        super().__init__(model, args, collate, data, held_out, callbacks=[*shown, self.stop, _LastStep(), *callbacks])
        self.remove_callback(PrinterCallback)

    def fit(self) -> dict[str, Any]:
        """Train to the end, from the last checkpoint on if there is one. Return the scores, and hold the result afterwards.

        Raises KeyboardInterrupt after a checkpoint if the user pressed Ctrl-C, and VitaError if it cannot be written.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            drop_halves(folder, self.keep)
        with self.stop.listening(), filling(folder):  # by a reporter: all else names its file
            steps = self.train(resume_from_checkpoint=last_checkpoint(folder)).global_step
        rows = self.state.log_history  # with those before a resume
        losses = [row["loss"] for row in rows if "loss" in row]
        scores: dict[str, Any] = {"train_loss": math.fsum(losses) / len(losses), "steps": steps}
        if self.eval_dataset is None:
            return scores
        scores["held_out_loss"] = [row["eval_loss"] for row in rows if "eval_loss" in row][-1]  # that of the last step
        if self.best is not None:
            step, loss = self.best
            scores["best"] = {"step": step, "held_out_loss": loss}
            if self.ends_with_best:
                scores["held_out_loss"] = loss
                self.load(load_file(self.file))
        elif self.ends_with_best:
            raise VitaError(f"{self.file}: no held-out loss is a number. Try: a lower `learning_rate`")
        return scores

    def trained(self) -> dict[str, Tensor]:
        """Return what is trained, on the CPU. Every process has to call it."""
        return on_cpu(trained_state(self.model))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trained` returned."""
        load_trained(self.model, state)

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """Return the held-out loss, and keep what is trained if it is the lowest so far."""
        metrics: dict[str, float] = super().evaluate(*arguments, **keywords)
        loss = metrics["eval_loss"]
        if loss < (math.inf if self.best is None else self.best[1]):
            self.best, state = (self.state.global_step, loss), self.trained()
            if self.args.should_save:
                write_tensors(self.file, state, step=str(self.state.global_step), held_out_loss=repr(loss))
        return metrics

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], *rest: Any) -> Tensor:
        """Return the loss of `transformers`, and count the pictures."""
        if self.progress is not None:
            self.progress.pictures += self.args.world_size * self.pictures(inputs)
        loss: Tensor = super().training_step(model, inputs, *rest)
        return loss

    def pictures(self, inputs: Mapping[str, Any]) -> int:
        """Return the number of pictures of a batch."""
        raise NotImplementedError

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained to a checkpoint, not the whole model."""
        state = self.trained()
        if self.args.should_save:
            write_tensors(Path(output_dir or self.args.output_dir) / WEIGHTS, state)

    def _save_checkpoint(self, *arguments: Any) -> None:
        """Write a checkpoint, and delete the oldest. Raises VitaError if there is no space, and then leaves nothing of it."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        trained = sum(
            getattr(p, "ds_numel", p.numel()) * p.element_size()  # DeepSpeed leaves nothing of a parameter
            for p in self.model.parameters()
            if p.requires_grad
        )
        try:
            with writing(folder, 3 * trained or None):  # AdamW keeps two values for each
                super()._save_checkpoint(*arguments)
            if self.args.should_save:
                seal(folder)
        except VitaError:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if self.args.should_save:
            drop_old(folder.parent, self.keep)

    def _save_rng_state(self, output_dir: str) -> None:
        """Write the state of this process's random numbers, and wait for the others: `last_checkpoint` relies on it."""
        super()._save_rng_state(output_dir)
        processes.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load(load_file(Path(resume_from_checkpoint) / WEIGHTS))

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        """Return the samples in order: they are already shuffled."""
        return SequentialSampler(self.train_dataset)


class _LastStep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for the held-out loss of the last step, before its checkpoint is written."""
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True


def _stated(file: Path) -> tuple[int, float] | None:
    """Return the step and the held-out loss of the best weights so far, if there are any."""
    if not file.is_file():
        return None
    told = stated([file])
    return int(told["step"]), float(told["held_out_loss"])
