"""Record what the modules of a model get and give in one run on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Event:
    """A module is reached (`after` is false) or left. `tensor` is its first argument or its output, `flops` those so far."""

    path: str
    after: bool
    tensor: Tensor
    flops: int


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor of a module's arguments or output."""
    if isinstance(value, Tensor):
        return value
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for found in map(first_tensor, values) if found is not None), None)


class Known(TorchFunctionMode):
    """Knows some values on the meta device.

    They are those of tensors that a model makes of numbers, for ``tolist``: Step-3.5's grid. And a mask of patches that the
    model makes itself is full, as Phi-4's: no picture is padded.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = getattr(args[0], "known", None) if args else None
        if known is not None and func is Tensor.tolist:
            return known.tolist()
        if func is Tensor.all and args[0].is_meta:
            return torch.tensor(True, device="cpu")
        made = func(*args, **(kwargs or {}))
        if func is torch.tensor and made.is_meta:
            made.known = torch.tensor(args[0], device="cpu")
        elif known is not None and func is Tensor.expand:
            made.known = known.expand(*args[1:])
        return made


def record(model: nn.Module, arguments: dict[str, Any]) -> list[Event]:
    """Run a model on the meta device and return what its modules got and gave."""
    counter, events, hooks = FlopCounterMode(display=False), [], []

    def note(path: str, after: bool, value: Any) -> None:
        tensor = first_tensor(value)
        if tensor is not None:
            events.append(Event(path, after, tensor, counter.get_total_flops()))

    for path, module in model.named_modules():
        if path:
            before = lambda _, args, kwargs, path=path: note(path, False, [*args, *kwargs.values()])  # noqa: E731  # its path is of this turn
            hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
            hooks.append(module.register_forward_hook(lambda _, args, output, path=path: note(path, True, output)))
    # not under torch.device("meta"): BEiT would cache a table of positions without values
    with torch.no_grad(), counter, Known():
        model(**arguments)
    for hook in hooks:
        hook.remove()
    return events
