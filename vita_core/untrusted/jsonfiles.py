"""Parse JSON that a stranger may have written: of bounded size and depth, without duplicate keys and broken characters.

As everywhere in Python, the numbers ``NaN`` and ``Infinity`` are allowed. Who uses a number checks it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.untrusted.files import read_bytes
from vita_core.untrusted.limits import CONFIG, Limits

__all__ = ["BadJson", "decode", "parse_json", "read_json", "read_object"]

# a text in quotes, whole or cut off, so that brackets in texts are not counted; possessive, so that it takes one pass
BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class BadJson(ValueError):  # noqa: N818  # callers turn it into an error of their own
    """Why a text is not accepted, and the line and column, which count from 1."""

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(reason)
        self.reason, self.line, self.column = reason, line, column


def decode(text: str | bytes, limits: Limits = CONFIG) -> Any:
    """Return the data of a JSON text in UTF-8. Raises BadJson."""
    try:
        if len(text) > limits.bytes:
            raise BadJson(f"not a {limits.what}: it has more than {limits.bytes:,} bytes")
        text = text if isinstance(text, str) else text.decode("utf-8")
        if sum(map(text.count, ",[{")) > limits.values:
            raise BadJson(f"not a {limits.what}: it has more than {limits.values:,} values")
        _check_depth(text, limits)
        data = json.loads(text, object_pairs_hook=_without_duplicates)
        if not limits.halves and SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise BadJson(f"not valid JSON: {error.msg}", error.lineno, error.colno) from None
    except RecursionError:  # the caller is deep in calls itself
        raise BadJson(f"not a {limits.what}: nested too deep") from None
    except UnicodeDecodeError as error:
        raise BadJson(f"not valid JSON: not UTF-8: {error.reason} at byte {error.start}") from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise BadJson(f"not valid JSON: half a character in a text: {half}") from None
    except BadJson:
        raise
    except ValueError as error:  # an integer of over 4300 digits
        raise BadJson(f"not valid JSON: {str(error).partition(';')[0]}") from None
    return data


def parse_json(text: str | bytes, name: str, limits: Limits = CONFIG) -> Any:
    """Return the data of a JSON text, which messages call `name`. Raises CheckpointError with ``name:line:column``."""
    try:
        return decode(text, limits)
    except BadJson as error:
        raise CheckpointError(
            f"{name}:{error.line}:{error.column}: {error.reason}. Try: download the file again"
        ) from error


def read_json(path: Path, limits: Limits = CONFIG) -> Any:
    """Return the data of a JSON file. Raises CheckpointError with ``file:line:column`` for anything else."""
    try:
        text = read_bytes(path, limits.bytes)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error}. Try: check its permissions, or download the file again"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not a {limits.what}: {error}. Try: download the file again") from error
    return parse_json(text, str(path), limits)


def read_object(path: Path, limits: Limits = CONFIG) -> dict[str, Any]:
    """Return the data of a JSON file whose top level is an object. Raises CheckpointError with ``file:line:column``."""
    data = read_json(path, limits)
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}:1:1: not a JSON object: a {type(data).__name__}. Try: download the file again")
    return data


def _check_depth(text: str, limits: Limits) -> None:
    """Raise BadJson for brackets inside too many others, before a parser that calls itself sees them."""
    depth = 0
    for found in BRACKETS.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            if depth > limits.depth:
                line, column = (
                    text.count("\n", 0, found.start()) + 1,
                    found.start() - text.rfind("\n", 0, found.start()),
                )
                raise BadJson(f"not a {limits.what}: nested deeper than {limits.depth} levels", line, column)
        elif found[0] in ("]", "}"):
            depth -= 1


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BadJson(f"not valid JSON: the key {name[:80]!r} stands twice in one object")
    return made
