"""``python -m vita_core.training`` in one of several processes, with a record of each batch and step of this process.

It is a file of JSON lines in the directory ``WATCHED``. With ``KILLED=STAGE:STEP``, the last process kills itself there, and with
``BROKEN=STAGE:STEP`` it makes a mistake.
"""

import json
import os
import runpy
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from vita_core.training.joint import Joint
from vita_core.training.reporting import Progress
from vita_core.training.resumable import trained_buffers

rank = int(os.environ["RANK"])
file = Path(os.environ["WATCHED"]) / f"{rank}.jsonl"


def note(**values: Any) -> None:
    with file.open("a") as opened:
        opened.write(json.dumps({"time": time.time(), **values}) + "\n")


def own_share(parameter: Any) -> Any:
    """What this process keeps of a tensor: of DeepSpeed's `ds_tensor`, of a DTensor, or the whole."""
    return parameter.to_local() if isinstance(parameter, DTensor) else getattr(parameter, "ds_tensor", parameter)


def size(tensors: Iterable[Any]) -> int:
    """The bytes of tensors in this process."""
    return sum(own_share(one).nbytes for one in tensors)


forward, step, end = Joint.forward, Progress.on_step_end, Progress.on_train_end


def seen(self: Joint, batch: Any, *rest: Any) -> Any:
    if self.training and dist.is_initialized():
        note(pictures=len(batch["pixels"]))
    return forward(self, batch, *rest)


def before_step(self: Progress, args: Any, state: Any, control: Any, **given: Any) -> None:
    """DeepSpeed keeps the gradients in a buffer of its own."""
    found = getattr(given["optimizer"].optimizer, "grad_partitions_flat_buffer", None)
    every = [one.grad for one in given["model"].parameters() if one.grad is not None] if found is None else [found]
    note(stage=self.stage, gradients=size(every))


def stepped(self: Progress, args: Any, state: Any, control: Any, **given: Any) -> None:
    step(self, args, state, control, **given)
    parameters, optimizer = [*given["model"].parameters()], given["optimizer"].optimizer
    whole = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)
    own = sum(own_share(parameter).numel() for parameter in parameters)
    shared = all(isinstance(one, DTensor) or (hasattr(one, "ds_tensor") and not one.numel()) for one in parameters)
    states = getattr(optimizer, "optimizer", optimizer).state.values()  # DeepSpeed wraps AdamW
    moments = [one for state in states for key, one in state.items() if key != "step"]
    note(stage=self.stage, step=state.global_step, world=dist.get_world_size(), shared=shared, share=own / whole)
    masters = getattr(optimizer, "fp32_partitioned_groups_flat", [])
    note(stage=self.stage, weights=size(parameters), optimizer=size([*moments, *masters]))
    if rank == args.world_size - 1:
        if os.environ.get("KILLED") == f"{self.stage}:{state.global_step}":
            note(killed=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("BROKEN") == f"{self.stage}:{state.global_step}":
            torch.ones(2, 3) @ torch.ones(2, 3)


def ended(self: Progress, args: Any, state: Any, control: Any, **given: Any) -> None:
    end(self, args, state, control, **given)
    statistics = [value.double().sum().item() for value in trained_buffers(given["model"]).values()]
    shared = [name for name, module in given["model"].named_modules() if isinstance(module, FSDPModule)]
    note(stage=self.stage, statistics=statistics, modules=shared)


Joint.forward, Progress.on_step_end, Progress.on_train_end = seen, stepped, ended  # type: ignore[method-assign, assignment]  # this is the recorder
Progress.on_pre_optimizer_step = before_step  # type: ignore[method-assign, assignment]  # and this
runpy.run_module("vita_core.training", run_name="__main__")
