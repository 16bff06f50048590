"""Write texts into Markdown so that they are shown as they were typed."""

from __future__ import annotations

import re

__all__ = ["code", "typed"]

MEANING = re.compile(
    r"[\\`*\[\]<|~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # not within a word, where it has no meaning
    r"|&(?=#?\w+;)"
    r"|:(?=//)|(?<=\bwww)\."  # an address would become a link, with the backslashes in it
)
START = re.compile(r"([#>=+-]|\d+(?=[.)](?:\s|$)))")
"""What makes a heading, a quote, a list or a line at the start of a text."""


def typed(text: str) -> str:
    """Return a text on one line, with a backslash before each character that has a meaning in Markdown."""
    escaped = MEANING.sub(r"\\\g<0>", " ".join(text.split()))
    start = START.match(escaped)
    if start is None:
        return escaped
    return rf"{start[0]}\{escaped[start.end() :]}" if start[0].isdigit() else rf"\{escaped}"


def code(text: str) -> str:
    """Return a text as code, which may contain backquotes."""
    line = " ".join(text.split())
    marks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{marks}{pad}{line}{pad}{marks}"
