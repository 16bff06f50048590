"""The exceptions that users catch.

Each line of a message has one form: ``what is wrong: the value. Cause if known. Try: what to do``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from vita_core.masking import masked

__all__ = [
    "AssetError",
    "CheckpointError",
    "ConfigError",
    "PictureError",
    "PluginError",
    "VitaError",
    "contents",
    "dotted",
    "nearest",
    "nearest_path",
    "one_line",
    "printable",
    "split_advice",
]


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that move the cursor, begin a line, or turn the direction in which a line is written."""


SHOWN = 10
"""The most names of a directory that a message lists."""
MOST = 10_000
"""The most names among which a similar one is looked for."""


class VitaError(ValueError):
    """A mistake that the user can correct. The CLI prints its message without a traceback and exits with code 2.

    Its arguments are the lines of the message. Secrets in them are masked (`vita_core.masking`). Control characters, such as
    those of a stranger's file name that would steer a terminal or begin a line, are written as ``\\x1b`` or ``\\n``.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*(one_line(masked(str(line))) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)

    def within(self, place: str) -> list[str]:
        """Return the lines of the message, each behind a place: the lines of an error that says where this one was met."""
        return [f"{place}: {line}" for line in self.args]


class ConfigError(VitaError):
    """A YAML file, a ``--set`` option or a mapping that is not a valid config."""


class PluginError(VitaError):
    """A plugin that failed to load, or a name that no plugin registers, or that several plugins register."""


class CheckpointError(VitaError):
    """Weights that are missing, have another layout, or do not fit the model."""


class PictureError(VitaError):
    """A picture that cannot be opened, or that is not accepted."""


class AssetError(VitaError):
    """An asset that is missing, cannot be fetched, or fails verification."""


def printable(text: str) -> str:
    """Return `text` with its control characters escaped, but for line feeds and tabs."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return `text` with its control characters and line feeds escaped."""
    return printable(text).replace("\n", "\\n")


def dotted(keys: Iterable[object]) -> str:
    """Return a key of a file as ``a.b.c``, on one line. A part with spaces, such as a sentence of a stranger, is in quotes."""
    parts = [one_line(str(key)) for key in keys]
    return ".".join(repr(part) if " " in part else part for part in parts)


def nearest(wrong: str, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest of `choices`, ignoring case, or an empty string if none is close."""
    others = (
        choice for choice in islice(choices, MOST) if choice != wrong
    )  # the folder of a link to nowhere holds that link
    folded = {choice.casefold(): choice for choice in others}
    found = difflib.get_close_matches(wrong.casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[found[0]]!r}?" if found else ""


def nearest_path(wrong: Path) -> str:
    """Return what `nearest` does for a path that does not exist, among the names in its folder."""
    return nearest(wrong.name, (entry.name for entry in wrong.parent.iterdir()) if wrong.parent.is_dir() else ())


def contents(directory: Path) -> str:
    """Return the names of what a directory holds, at most `SHOWN` of them."""
    names = sorted(entry.name for entry in directory.iterdir())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "nothing"


def split_advice(message: str) -> tuple[str, str]:
    """Split the first line of a message at its last ``Try:``. Return what is wrong, without a final period, and the advice or "".

    What a stranger wrote, which may hold a ``Try:`` too, stands before our own advice.
    """
    line = message.partition("\n")[0]
    wrong, mark, advice = line.rpartition("Try: ")
    return (wrong if mark else line).rstrip(" ."), advice if mark else ""
