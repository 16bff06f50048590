"""Directories that LLaVA's and VITA's LoRA training writes: an adapter, what else was trained, and the base that both need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from vita_core.loading import Tensors, read_tensors

__all__ = ["NON_LORA", "overlaid"]

NON_LORA = "non_lora_trainables.bin"
"""What was trained in full beside the adapter: the projector, say."""
# peft wraps the model twice: `base_model.model.` stands before the model's own keys
WRAPPED = re.compile(r"^(?:base_model\.)?(?:model\.(?=model\.|lm_head\.))?")


def overlaid(base: Sequence[Path], directory: Path) -> Tensors:
    """The tensors of the `base` files; those that ``non_lora_trainables.bin`` of `directory` holds come from there, under the
    base's keys, and what the base lacks comes last."""
    file = directory / NON_LORA
    trained = dict(_unwrapped(file)) if file.is_file() else {}
    for key, read in read_tensors(base):
        yield key, trained.pop(key, read)
    yield from trained.items()


def _unwrapped(file: Path) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    for key, read in read_tensors([file]):
        yield WRAPPED.sub("", key, count=1), read
