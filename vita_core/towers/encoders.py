"""Build a tower's encoder, and turn errors of its libraries into errors that say what the user can do."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.discovery import describe

__all__ = ["build_checked"]


def build_checked(resolved: ResolvedTower, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the encoder that `build` makes.

    Raises ConfigError for an attention implementation that this machine does not have, and CheckpointError if no encoder
    can be built from the checkpoint's config.
    """
    wanted, named = resolved.settings.attention, f"tower {resolved.spec.name!r} cannot be built"
    try:
        return build()
    except VitaError:
        raise
    except Exception as error:
        if wanted != "auto" and isinstance(
            error, ImportError | ValueError
        ):  # raised by transformers for a missing kernel
            raise ConfigError(
                f"tower.attention: {named} with {wanted!r} on this machine: {describe(error).rstrip('.')}. "
                "Try: `tower.attention: auto`"
            ) from error
        where, who = resolved.source.weights, resolved.owner
        raise CheckpointError(
            f"{named} from the config of {where}: {describe(error).rstrip('.')}. "
            f"Try: correct the config, or report this to the author of {who} if the config is as published"
        ) from error
