"""TensorBoard, Weights & Biases and MLflow, by transformers' own reporters. By default they write to the directory of the run."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from vita_core.errors import ConfigError

__all__ = ["check_reporters", "reporting"]

INSTALLED_BY = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""The module of each reporter, and the package that has it."""


def check_reporters(names: Sequence[str]) -> None:
    """Raise ConfigError for a reporter whose package is not installed."""
    for name in names:
        found = find_spec(name)
        if found is None or found.loader is None:  # without a loader, it is a folder of this name
            raise ConfigError(
                f"training.report_to: {name} is not installed. Try: `pip install {INSTALLED_BY[name]}`, or leave it out"
            )


@contextmanager
def reporting(names: Sequence[str], out: Path, stage: str) -> Iterator[None]:
    """Let the reporters of a stage write to `out`, and ask no server, unless the user's environment says otherwise."""
    out = out.absolute()
    defaults = {
        "TENSORBOARD_LOGGING_DIR": str(out / "tensorboard" / stage),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(out),
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_NAME": stage,
        "WANDB_PROJECT": "vita",
        "MLFLOW_TRACKING_URI": (out / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # else MLflow 3 wants a database
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    added = {key: value for key, value in defaults.items() if names and key not in os.environ}
    os.environ.update(added)
    hook = threading.excepthook
    if names:  # the thread of TensorBoard would print a traceback of what the next log raises
        threading.excepthook = lambda told: None if isinstance(told.exc_value, OSError) else hook(told)
    try:
        yield
    finally:
        threading.excepthook = hook
        if (wandb := sys.modules.get("wandb")) is not None and "wandb" in names:
            wandb.finish()  # else the next stage would go on in this run
        if (mlflow := sys.modules.get("mlflow")) is not None and "mlflow" in names:
            mlflow.end_run()  # it does nothing without an open run
        for key in added:
            os.environ.pop(key, None)
