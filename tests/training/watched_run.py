"""``python -m vita_core.training`` in one of several processes, with a record of each batch and step of this process.

It is a file of JSON lines in the directory ``WATCHED``. With ``KILLED=STAGE:STEP``, the last process kills itself there.
"""

import json
import os
import runpy
import signal
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.tensor import DTensor

from vita_core.training.joint import Joint
from vita_core.training.reporting import Progress

rank = int(os.environ["RANK"])
file = Path(os.environ["WATCHED"]) / f"{rank}.jsonl"


def note(**values: Any) -> None:
    with file.open("a") as opened:
        opened.write(json.dumps({"time": time.time(), **values}) + "\n")


def own_share(parameter: Any) -> Any:
    """What this process keeps of a parameter: of DeepSpeed's `ds_tensor`, of a DTensor, or the whole."""
    return parameter.to_local() if isinstance(parameter, DTensor) else getattr(parameter, "ds_tensor", parameter)


forward, step = Joint.forward, Progress.on_step_end


def seen(self: Joint, batch: Any, *rest: Any) -> Any:
    if self.training and dist.is_initialized():
        note(pictures=len(batch["pixels"]))
    return forward(self, batch, *rest)


def stepped(self: Progress, args: Any, state: Any, control: Any, **given: Any) -> None:
    step(self, args, state, control, **given)
    parameters = [*given["model"].parameters()]
    whole = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)
    own = sum(own_share(parameter).numel() for parameter in parameters)
    shared = all(isinstance(one, DTensor) or hasattr(one, "ds_tensor") for one in parameters)
    note(stage=self.stage, step=state.global_step, world=dist.get_world_size(), shared=shared, share=own / whole)
    if rank == args.world_size - 1 and os.environ.get("KILLED") == f"{self.stage}:{state.global_step}":
        note(killed=True)
        os.kill(os.getpid(), signal.SIGKILL)


Joint.forward, Progress.on_step_end = seen, stepped  # type: ignore[method-assign, assignment]  # this is the recorder
runpy.run_module("vita_core.training", run_name="__main__")
