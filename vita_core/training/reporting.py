"""Show what a training does: the table of trained parts, one bar a stage, and ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from transformers import TrainerCallback

from vita_core.errors import VitaError
from vita_core.training.parts import PartRow
from vita_core.training.stages import Stage
from vita_core.weights.files import append_line

__all__ = ["DivergedError", "Progress", "show_table"]


def show_table(stage: Stage, rows: Sequence[PartRow], unused: Sequence[str] = ()) -> None:
    """Print how many parameters of each part a stage trains, and which of them no picture reaches, to stderr."""
    made = Table(title=f"stage {stage.name}", title_justify="left", title_style="")
    for heading in ("part", "trained", "parameters", "of them trained"):
        made.add_column(heading, justify="right" if "of" in heading or "meters" in heading else "left")
    for row in rows:
        made.add_row(row.part, row.how, f"{row.parameters:,}", f"{row.trained:,}")
    console = Console(stderr=True)
    console.print(made)
    if unused:
        console.print(f"frozen too, because no loss of the first samples depends on them: {', '.join(unused)}")


class DivergedError(VitaError):
    """A loss is not a number."""


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """One bar for a stage, with its loss, held-out loss, learning rate and pictures a second. Each log is also a row of a file.

    A row is ``{"stage", "step", "time", ...}`` with what transformers logs: `loss`, `grad_norm`, `learning_rate`, `eval_loss`.
    `pictures` is how many were trained on so far; the trainer counts them.
    """

    def __init__(self, stage: str, file: Path) -> None:
        self.stage, self.file, self.pictures = stage, file, 0
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar. A resumed stage begins where it stopped."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.stage,
            unit="step",
            disable=None if state.is_world_process_zero else True,
        )
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.shown["pictures/s"] = f"{self.pictures / max(1e-9, time.monotonic() - self.started):.1f}"
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write a row, and show its numbers; null is one that is not finite. Raises DivergedError if that is the loss."""
        names = {"loss": "loss", "eval_loss": "held out", "learning_rate": "lr"}
        numbers = {key: float(value) for key, value in (logs or {}).items() if _is_number(value)}
        self.shown |= {names[key]: f"{value:.4g}" for key, value in numbers.items() if key in names}
        if state.is_world_process_zero:
            finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
            row = {"stage": self.stage, "step": state.global_step, "time": round(time.time(), 3), **finite}
            append_line(self.file, json.dumps(row))
        if not math.isfinite(loss := numbers.get("loss", 0.0)):
            raise DivergedError(
                f"{self.stage}: the loss of step {state.global_step} is not a number: {loss}. "
                "Try: a lower `learning_rate`, and another directory for --out"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.bar.close()


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
