"""Building a tower's encoder; what its libraries raise meanwhile is told as what the user can mend."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.discovery import describe

__all__ = ["build_checked"]


def build_checked(resolved: ResolvedTower, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes.

    Raises ConfigError for an attention that this machine has not, and CheckpointError where the checkpoint's config makes
    no encoder.
    """
    wanted, named = resolved.settings.attention, f"tower {resolved.spec.name!r} cannot be built"
    try:
        return build()
    except VitaError:
        raise
    except Exception as error:
        if wanted != "auto" and isinstance(error, ImportError | ValueError):  # transformers' for a missing kernel
            raise ConfigError(f"tower.attention: {named} with {wanted!r} here ({describe(error)}); use auto") from error
        where, who = resolved.source.weights, resolved.owner
        raise CheckpointError(
            f"{named} from {where}'s config ({describe(error)}); mend it, or if it is as published tell {who}'s author"
        ) from error
