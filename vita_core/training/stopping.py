"""Ctrl-C and SIGTERM, which save a checkpoint at the end of the step."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback

from vita_core import interrupts

__all__ = ["StopOnInterrupt"]


class StopOnInterrupt(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Saves a checkpoint and stops at the end of a step in which a signal came. The next one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C, in a command SIGTERM too, while the block runs, then raise KeyboardInterrupt if there was one."""
        shared = dist.is_available() and dist.is_initialized()  # its processes would stop at different steps
        if shared or threading.current_thread() is not threading.main_thread():  # only this one may set handlers
            yield
            return

        def ask() -> None:
            self.asked = True

        with interrupts.listening(ask):
            yield
        if self.asked:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to save and stop."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    on_evaluate = on_step_end  # Ctrl-C while the held-out loss is computed
