"""Bound what a tokenizer's own settings make of a text. Its steps may replace a letter by a thousand, one after the other."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError
from vita_core.untrusted.files import read_bytes
from vita_core.untrusted.limits import RECORD

__all__ = ["MOST", "check_steps"]

MOST = 10_000
"""The most characters or tokens that the steps may make of one. The estimate for real tokenizers is below 1,000."""
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
INNER = ("normalizers", "pretokenizers", "processors", "decoders")
GROWTH = {"ByteLevel": 4, "BertNormalizer": 3, "NFD": 4, "NFKD": 18, "NFKC": 18, "Metaspace": 2}
"""The most that a step without a text of its own makes of one character."""


def check_steps(file: Path) -> None:
    """Raise CheckpointError if the steps of a ``tokenizer.json`` make too much of a text.

    It is asked before the library opens the file: it turns the added tokens into their normal form then. What is no such file is
    left to the library, which tells why.
    """
    try:
        stated = json.loads(read_bytes(file, RECORD.bytes))  # not `read_object`, which takes a second for 250,000 words
    except (OSError, ValueError, RecursionError):
        return
    for key in STEPS:
        try:
            found = _growth(stated[key]) if stated.get(key) else 1
        except (TypeError, KeyError, ValueError, AttributeError, IndexError, StopIteration, RecursionError):
            continue
        if found > MOST:
            raise CheckpointError(
                f"{file}: {key}: its steps make up to {found:,.0f} of one character, more than {MOST:,}. Try: download the "
                "file again, or correct that key"
            )


def _growth(step: Mapping[str, Any]) -> float:
    """Return how many characters or tokens a step makes of one, at most. It is an estimate for what replaces nothing."""
    kind = step.get("type")
    if kind == "Sequence":
        found = 1.0
        for one in next(step[key] for key in INNER if key in step):
            found = min(found * _growth(one), 1e300)
        return found
    if kind == "Precompiled":
        return max(1, *map(len, _pieces(step["precompiled_charsmap"])))
    if kind == "TemplateProcessing":
        return max(sum(_length(piece, step["special_tokens"]) for piece in step[form]) for form in ("single", "pair"))
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Replace":
        pattern = step["pattern"].get("String")
        # a regular expression may match the empty text before each character, too
        return max(1, len(step["content"]) / len(pattern)) if pattern else 1 + len(step["content"])
    if kind == "ByteLevel":
        return GROWTH[kind] + bool(step.get("add_prefix_space"))
    return GROWTH.get(str(kind), 1)


def _length(piece: Mapping[str, Any], tokens: Mapping[str, Any]) -> int:
    """Return the tokens that a piece of a template adds for each one of a text."""
    return 1 if "Sequence" in piece else len(tokens[piece["SpecialToken"]["id"]]["ids"])


def _pieces(charsmap: str) -> list[str]:
    """Return what SentencePiece's compiled rules write: behind a table, whose size comes first, texts that end with a zero."""
    data = base64.b64decode(charsmap)
    table = int.from_bytes(data[:4], "little")
    return data[4 + table :].decode("utf-8", "replace").split("\0")
