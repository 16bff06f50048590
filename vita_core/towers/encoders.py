"""Build a tower's encoder, and turn errors of its libraries into errors that say what the user can do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn

from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.loading import Tensors, without_weights
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.discovery import describe
from vita_core.plugins.libraries import failed_library, library_advice
from vita_core.untrusted.sizes import LargeTableError, large_table
from vita_core.weights.stated import place

__all__ = ["build_checked", "random_tensors"]


def random_tensors(resolved: ResolvedTower, build: Callable[[], nn.Module]) -> Tensors:
    """Yield the tensors of the encoder that `build` makes, with the random values of its library, and warn that they are.

    They are the same in every call.
    """
    why = "because `tower.options.pretrained` is false"
    warnings.warn(f"tower {resolved.source.weights} has random weights, {why}", RuntimeWarning, stacklevel=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build().state_dict()
    for key, value in state.items():
        yield key, lambda value=value: value  # type: ignore[misc]  # a default cannot be typed


def build_checked(resolved: ResolvedTower, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the encoder that `build` makes, with its parameters on the meta device.

    If that fails, it is built once more with real parameters: the constructors of some encoders compute with them.
    Raises ConfigError for an attention implementation that this machine does not have, and CheckpointError if no encoder
    can be built from the checkpoint's config.
    """
    wanted, named = resolved.settings.attention, f"tower {resolved.spec.name!r} cannot be built"
    try:
        with suppress(RuntimeError), without_weights():
            return build()
        return build()
    except VitaError:
        raise
    except LargeTableError as error:
        raise large_table(error, resolved.source.config, place(resolved.source, resolved.spec.config_file)) from error
    except Exception as error:
        # raised by transformers for a missing kernel
        if wanted != "auto" and isinstance(error, ImportError | ValueError):
            raise ConfigError(
                f"tower.attention: {named} with {wanted!r} on this machine: {describe(error).rstrip('.')}. "
                "Try: `tower.attention: auto`"
            ) from error
        where, who = resolved.source.weights, resolved.owner
        library = failed_library(error, (resolved.spec.factory,))
        if library is not None:
            raise CheckpointError(
                f"{named} from {where}, because {library} failed: {describe(error).rstrip('.')}. "
                f"Try: {library_advice(library, who)}"
            ) from error
        raise CheckpointError(
            f"{named} from the config of {where}: {describe(error).rstrip('.')}. "
            f"Try: correct the config, or report this to the author of {who} if the config is as published"
        ) from error
