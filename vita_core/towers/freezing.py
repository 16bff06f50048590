"""Which parameters of an encoder are trained, and in which mode what is frozen runs."""

from __future__ import annotations

from torch import nn

from vita_core.config.schema import FreezeConfig
from vita_core.errors import VitaError
from vita_core.plugins.specs import Shape

__all__ = ["freeze", "train_unfrozen"]


def freeze(encoder: nn.Module, frozen: bool | FreezeConfig, shape: Shape) -> None:
    """Freeze all of the encoder, nothing, or what stands before block `from_layer`.

    Parameters stand in the order they run, and the shape says how many each layer has. Raises VitaError where its
    sums do not meet the parameters: nothing is then half frozen.
    """
    if isinstance(frozen, bool):
        encoder.requires_grad_(not frozen)
        return
    left = sum(stage.parameters for stage in shape.stages[: frozen.from_layer])
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(left == 0)
        left -= parameter.numel() if left else 0
        if left < 0:
            raise VitaError(
                f"tower.freeze.from_layer: layer {frozen.from_layer} begins inside {name}, by this tower's shape(); its "
                "stages do not count the parameters in the order they run. Report it to its author"
            )


def train_unfrozen(module: nn.Module, mode: bool = True) -> None:
    """Train mode for what holds a trainable parameter, eval mode for the rest; what holds none follows its parent."""
    parameters = list(module.parameters())
    module.training = mode and (not parameters or any(parameter.requires_grad for parameter in parameters))
    for child in module.children():
        train_unfrozen(child, module.training)
