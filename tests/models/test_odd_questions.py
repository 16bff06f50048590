"""Questions and limits that no model can take are refused, and never replaced by others without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vita_core import VitaError, build_model

PICTURE = Image.new("RGB", (60, 50))


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3"])
def test_limits(limit: Any, tiny_config: Path) -> None:
    model = build_model(tiny_config)
    with pytest.raises(VitaError, match=r"max_new_tokens: .* is not a whole number from 1"):
        model.ask([PICTURE], "what is this ?", max_new_tokens=limit)


@pytest.mark.reliability(door="a question", fault="bytes that are not UTF-8", expected="an error that quotes it")
@pytest.mark.parametrize(
    ("question", "system", "name"), [("what \udcff", None, "question"), ("what", "\ud800", "system text")]
)
def test_half_characters(question: str, system: str | None, name: str, tiny_config: Path) -> None:
    model = build_model(tiny_config)
    with pytest.raises(VitaError, match=f"the {name} is not text, for it holds half a character"):
        model.ask([PICTURE], question, system=system)
