"""Bound what a tokenizer's own settings make of a text. Its steps may replace a letter by a thousand, one after the other."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from vita_core.errors import CheckpointError

__all__ = ["MOST", "check_growth"]

MOST = 1_000
"""The most characters or tokens that the steps may make of one. Those of real tokenizers make up to 18, as NFKD does."""
GROWTH = {"ByteLevel": 2, "BertNormalizer": 3, "NFD": 4, "NFKD": 18, "NFKC": 18}
"""The most that a step without text of its own makes of one character."""


def check_growth(kind: str, step: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError if a normalizer, post-processor or decoder of a ``tokenizer.json`` makes too much of a text.

    `kind` is its key in that file, and `step` its value.
    """
    if (found := _growth(step)) > MOST:
        raise CheckpointError(
            f"{where}: {kind}: its steps make up to {found:,.0f} of one character, more than {MOST:,}. Try: download the "
            "file again, or correct that key"
        )


def _growth(step: Mapping[str, Any]) -> float:
    """Return how many characters or tokens a step makes of one, at most. It is an estimate for what replaces nothing."""
    steps = [one for key in ("normalizers", "processors", "decoders") for one in step.get(key, ())]
    if steps:
        found = 1.0
        for one in steps:
            found = min(found * _growth(one), 1e300)
        return found
    texts = [step[key] for key in ("content", "prepend") if step.get("type") in ("Replace", "Prepend") and key in step]
    pattern = step.get("pattern", {}).get("String") if step.get("type") == "Replace" else ""
    if step.get("type") == "Precompiled":
        return max(map(len, _pieces(step["precompiled_charsmap"])), default=1)
    if step.get("type") == "TemplateProcessing":
        return max(sum("Sequence" in piece for piece in step[form]) for form in ("single", "pair"))
    if texts:
        return max(1.0, len(texts[0]) / len(pattern)) if pattern else 1.0 + len(texts[0])
    return GROWTH.get(str(step.get("type")), 1)


def _pieces(charsmap: str) -> list[str]:
    """Return what SentencePiece's compiled rules write: after a table, whose size comes first, texts that end with a zero."""
    try:
        data = base64.b64decode(charsmap)
    except binascii.Error:
        return []
    table = int.from_bytes(data[:4], "little")
    return data[4 + table :].decode("utf-8", "replace").split("\0")
