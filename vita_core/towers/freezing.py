"""Freeze parameters of an encoder, and keep frozen modules in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from vita_core.config.schema import FreezeConfig
from vita_core.errors import VitaError
from vita_core.plugins.specs import Shape

__all__ = ["freeze", "train_unfrozen"]


def freeze(
    encoder: nn.Module,
    frozen: bool | FreezeConfig,
    shape: Shape,
    in_run_order: Callable[[nn.Module], Iterable[tuple[str, nn.Parameter]]] = nn.Module.named_parameters,
) -> None:
    """Freeze the whole encoder (True), nothing (False), or all parameters before block `from_layer`.

    `in_run_order` returns the named parameters in the order they run, because `shape` says how many each layer has. Raises
    VitaError if a layer would begin inside a parameter.
    """
    if isinstance(frozen, bool):
        encoder.requires_grad_(not frozen)
        return
    left = sum(stage.parameters for stage in shape.stages[: frozen.from_layer])
    for name, parameter in in_run_order(encoder):
        parameter.requires_grad_(left == 0)
        left -= parameter.numel() if left else 0
        if left < 0:
            raise VitaError(
                f"tower.freeze.from_layer: layer {frozen.from_layer} begins inside {name} according to this tower's shape(), "
                "whose stages do not count the parameters in the order they run. "
                "Try: `tower.freeze: false`, and report this to the tower's author"
            )


def train_unfrozen(module: nn.Module, mode: bool = True) -> None:
    """Put modules with a trainable parameter in train mode (if `mode`) and frozen ones in eval mode.

    A module without parameters gets its parent's mode.
    """
    parameters = list(module.parameters())
    module.training = mode and (not parameters or any(parameter.requires_grad for parameter in parameters))
    for child in module.children():
        train_unfrozen(child, module.training)
