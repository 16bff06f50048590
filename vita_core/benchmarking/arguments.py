"""The arguments of ``lmms-eval --model vita``: ``--model_args``, ``--batch_size`` and ``--device``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from vita_core.errors import ConfigError, VitaError, nearest

__all__ = ["UNSUPPORTED", "Arguments", "device_of", "model_arguments", "refuse"]

KNOWN = ("config", "max_frames")
UNSUPPORTED = {
    "--apply_chat_template": "the prompt is written as the config says. Try: leave it out; `prompt.template: chat` is the "
    "tokenizer's template",
    "acc_mutual_info": "it needs the likelihood of a text alone, which is not supported. Try: a task with the metric acc",
    "generate_until_multi_round": "several rounds are not supported. Try: a task whose output_type is generate_until",
    "generate_visual_cot": "no picture can be generated. Try: a task whose output_type is generate_until",
}
"""What lmms-eval may ask for, and what is said instead."""


@dataclass(frozen=True)
class Arguments:
    """What to open, the overrides of its config, the size of a batch, and the largest number of frames of a video."""

    config: str
    overrides: tuple[str, ...]
    batch: int
    max_frames: int | None


def model_arguments(given: Mapping[str, Any], batch_size: int | str) -> Arguments:
    """Return the checked arguments. Keys with a dot are keys of the config. Raises ConfigError."""
    for key in given:
        if key not in KNOWN and "." not in key:
            raise ConfigError(
                f"--model_args: unknown argument: {key!r}.{nearest(key, KNOWN)} "
                f"Try: one of {', '.join(KNOWN)}, or a key of the config such as tower.pool=2"
            )
    if "config" not in given:
        raise ConfigError("--model_args: config is missing. Try: `--model_args config=DIR`")
    if not str(batch_size).isdecimal():
        raise ConfigError(f"--batch_size: not a number: {batch_size!r}. Try: `--batch_size 8`")
    frames = given.get("max_frames")
    if frames is not None and (not isinstance(frames, int) or frames < 1):
        raise ConfigError(f"--model_args: max_frames: wrong value: {frames!r}. Try: a whole number of at least 1")
    overrides = tuple(f"{key}={_written(value)}" for key, value in given.items() if key not in KNOWN)
    return Arguments(str(given["config"]), overrides, int(batch_size), frames)


def refuse(what: str) -> NoReturn:
    """Raise VitaError for one of `UNSUPPORTED`."""
    raise VitaError(f"{what}: {UNSUPPORTED[what]}")


def device_of(given: str | None, processes: int, own: torch.device) -> str | None:
    """Return the device of the model, or None for that of the config. `own` is the device that accelerate gave this process.

    Of several processes, each takes its own. Raises VitaError if another kind is `given`.
    """
    if processes == 1:
        return given
    if given not in (None, "auto") and torch.device(given).type != own.type:
        raise VitaError(f"--device: {given}, but each of {processes} processes has {own}. Try: leave it out")
    return str(own)


def _written(value: Any) -> str:
    """Return a value that lmms-eval has read as it stood on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
