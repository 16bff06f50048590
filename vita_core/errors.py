"""Errors that users meet. Each says what was wrong, the value, the valid choices and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AssetError",
    "CheckpointError",
    "ConfigError",
    "PictureError",
    "PluginError",
    "VitaError",
    "nearest",
]


class VitaError(ValueError):
    """A mistake the user can mend. The CLI prints its message and exits with 2, without a traceback."""


class ConfigError(VitaError):
    """A YAML file, a ``--set`` or a dict that does not validate."""


class PluginError(VitaError):
    """A plugin that failed to load, or a name that no plugin (or more than one) registers."""


class CheckpointError(VitaError):
    """Weights that are missing, of another layout, or do not fit the model."""


class PictureError(VitaError):
    """A picture that cannot be opened or is refused."""


class AssetError(VitaError):
    """A downloadable asset that is missing, cannot be fetched or does not verify."""


def nearest(wrong: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest of `choices` (upper and lower case are alike), or nothing when none is close."""
    folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(wrong.casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[found[0]]!r}?" if found else ""
