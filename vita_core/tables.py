"""Refuse a tensor that takes too much memory before it is made, whatever computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vita_core.untrusted.sizes import MOST_TABLE, LargeTableError

__all__ = ["BoundedTables"]

UNTOUCHED = {torch.ops.aten.empty.memory_format, torch.ops.aten.empty_strided.default}
"""What takes no memory until it is written to. Parameters start so, and are then moved to the meta device."""


class BoundedTables(TorchDispatchMode):
    """While it is on, an operation whose result takes too much memory raises LargeTableError instead of being computed.

    A library computes tables, such as those of relative positions, when it builds a model or runs it for the first time. Their
    size may grow with the fourth power of a number in a config.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func not in UNTOUCHED and not any(one.alias_info is not None for one in func._schema.arguments):
            found = _bytes(func, args, given)
            if found > MOST_TABLE:
                raise LargeTableError(found)
        return func(*args, **given)


def _bytes(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> int:
    """Return the bytes that the results of an operation take. They are computed on the meta device, which has no memory."""
    tensors = [one for one in tree_leaves((args, given)) if isinstance(one, Tensor)]
    if any(one.is_meta for one in tensors) or str(given.get("device")).startswith("meta"):
        return 0
    if not tensors or "device" in given:
        given = {**given, "device": torch.device("meta")}
    try:
        args, given = tree_map_only(Tensor, _on_meta, (args, given))
        made = tree_leaves(func(*args, **given))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return 0  # its size depends on values, or it takes no device: it fails or it is small
    return sum(one.numel() * one.itemsize for one in made if isinstance(one, Tensor))


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
