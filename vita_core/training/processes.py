"""The processes of a training: how many there are, which one this is, and one message if they fail."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from vita_core.config.schema import Config
from vita_core.errors import ConfigError, VitaError

__all__ = ["check_devices", "count", "first", "lost", "start", "tell", "together", "wait"]

LOST = re.compile(r"(closed|reset) by (remote )?peer|remote process exit|connection was likely closed", re.IGNORECASE)
"""What gloo, NCCL and torch's store write into the error of a process that waits for one that has ended."""


def count() -> int:
    """Return how many processes train together: what ``torchrun`` and ``accelerate launch`` set, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def first() -> bool:
    """Return whether this process is the one that prints and writes."""
    return count() == 1 or os.environ["RANK"] == "0"


def tell(text: str) -> None:
    """Print a line to stderr, in one process only, above the bar if there is one."""
    if first():
        tqdm.write(text, file=sys.stderr)


def start() -> None:
    """Join the other processes, unless this one has done so. Each takes the GPU of its own number, if there are GPUs."""
    if count() == 1:
        return
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        _stay_here()
        # gloo for tensors on the CPU, nccl for those on a GPU
        distributed.init_process_group(store=_store(), rank=int(os.environ["RANK"]), world_size=count())


def _stay_here() -> None:
    """Have the processes listen on the loopback interface alone if all of them run on this machine.

    By default gloo and NCCL take the address of the machine's name, which others may reach. A variable that is set stays.
    """
    if sys.platform == "linux" and os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")


@functools.cache
def _store() -> Any:
    """Return what the processes share: keys and values, at the address that the launcher has set."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


def wait() -> None:
    """Return when all processes are here."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()


def check_devices(config: Config) -> None:
    """Raise ConfigError for a device with a number: of several processes, each takes its own."""
    parts = {f"tower.towers.{place}.device": part.device for place, part in enumerate(config.tower.towers or ())}
    stated = {"device": config.device, "tower.device": config.tower.device, **parts}
    for key, device in stated.items():
        if count() > 1 and device is not None and ":" in device:
            name = device.partition(":")[0]
            raise ConfigError(
                f"{key}: {device} would be shared by {count()} processes. Try: `{key}: {name}`, which gives each its own"
            )


@contextmanager
def together() -> Iterator[None]:
    """Run a command in all processes. If it fails, the first of them raises its error.

    The others exit without a word if they fail only because that one is gone, or by a VitaError, which would be the same.
    """
    if count() == 1:
        yield
        return
    start()
    if not first():
        from transformers.utils import logging

        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
    try:
        yield
        wait()
    except Exception as error:
        told = _store().add("failed", 1) > 1  # by a process that failed before
        if lost(error) and not told:
            raise VitaError(
                "another process of this training has ended or cannot be reached, so this one cannot go on. Try: the same "
                "command again, which goes on from the last checkpoint"
            ) from error
        if told and (lost(error) or isinstance(error, VitaError)):
            time.sleep(1)  # torchrun ends all processes when one exits, and the message has to be written first
            raise SystemExit(2) from error
        raise


def lost(error: Exception) -> bool:
    """Return whether an error only says that another process of a training has gone, whatever that one died of."""
    return isinstance(error, RuntimeError) and LOST.search(str(error)) is not None
