"""Ctrl-C, which saves a checkpoint at the end of the step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback

__all__ = ["StopOnInterrupt"]


class StopOnInterrupt(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Saves a checkpoint and stops at the end of a step in which the user pressed Ctrl-C. The next Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C while the block runs, then raise KeyboardInterrupt if there was one."""
        shared = dist.is_available() and dist.is_initialized()  # its processes would stop at different steps
        if shared or threading.current_thread() is not threading.main_thread():  # only this one may set handlers
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def ask(*_: Any) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self.asked:
            raise KeyboardInterrupt

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the trainer to save and stop."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    on_evaluate = on_step_end  # Ctrl-C while the held-out loss is computed
