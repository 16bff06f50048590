"""Regular expressions that a stranger wrote. One with repeats in repeats can run for years on a short text."""

from __future__ import annotations

import re
import reprlib

from vita_core.errors import CheckpointError

__all__ = ["MOST_REPEATS", "check_quick", "is_quick"]

MOST_REPEATS = 2
"""The most repeats of a pattern that is run. With each one more, the time is multiplied by the length of the text."""
LONGEST = 100_000
"""The most characters of a pattern."""
PLAIN = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
"""An escaped character or a set, in which signs of repeats are none."""


def is_quick(pattern: str, most: int = MOST_REPEATS) -> bool:
    """Return whether a pattern has at most `most` repeats, and none around a group. It may be no regular expression."""
    text = PLAIN.sub("x", pattern).replace("(?", "(")
    text = re.sub(r"([*+?}])[?+]", r"\1", text)  # lazy and possessive repeats
    return len(pattern) <= LONGEST and len(re.findall(r"[*+?{]", text)) <= most and not re.search(r"\)[*+{]", text)


def check_quick(pattern: str, file: str, key: str, most: int = MOST_REPEATS) -> None:
    """Raise CheckpointError unless a pattern under a key of a file is a regular expression that takes little time."""
    told = f"{file}: {key}: {reprlib.repr(pattern)}"
    if not is_quick(pattern, most):
        raise CheckpointError(
            f"{told} is a regular expression with too many repeats (over {most}) or with repeats of a group, which may "
            "take for ever. Try: write the names of the layers there"
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{told} is not a regular expression: {error}. Try: correct that key, or download the file again"
        ) from error
