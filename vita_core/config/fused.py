"""Check the keys of several encoders that work as one (``tower.towers``): which belong to the whole, and which to a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

__all__ = ["FUSED", "check_keys"]

FUSED = "fused"
"""The ``type`` of a tower of several encoders. It may be left out."""
WHOLE = ("type", "towers", "combine", "grid", "pixel_shuffle", "pool", "reduce", "delay_load", "check_finite")
"""The keys of the whole. All others describe one encoder, and stand in a part."""
ONLY_WHOLE = ("combine", "grid")


def check_keys(settings: BaseModel, towers: Sequence[BaseModel] | None) -> None:
    """Raise pydantic's ValidationError for keys of a section ``tower:`` that do not belong where they are.

    `settings` are those of the whole with its parts `towers`, or of one encoder without.
    """
    fields = type(settings).model_fields
    defaults = {key: field.get_default(call_default_factory=True, validated_data={}) for key, field in fields.items()}
    values = {key: getattr(settings, key) for key in fields if getattr(settings, key) != defaults[key]}
    found = _of_one(values) if towers is None else _of_several(values, towers)
    problems = [
        InitErrorDetails(type=PydanticCustomError("value_error", "{told}", {"told": told}), loc=loc, input=None)
        for loc, told in found
    ]
    if problems:
        raise ValidationError.from_exception_data(type(settings).__name__, problems)


Told = Iterator[tuple[tuple[str | int, ...], str]]


def _of_one(values: Mapping[str, Any]) -> Told:
    if values.get("type") == FUSED:
        yield ("type",), "'fused' needs several encoders. Try: `towers: [{weights: DIR}, {weights: DIR}]`"
    for key in filter(values.__contains__, ONLY_WHOLE):
        yield (
            (key,),
            "it says how the parts of `towers` are joined, but there are none. Try: leave it out, or add `towers`",
        )


def _of_several(values: Mapping[str, Any], towers: Sequence[BaseModel]) -> Told:
    if len(towers) < 2:
        what = "is one encoder" if towers else "is no encoder"
        yield ("towers",), f"{what}, but two or more are joined. Try: the keys of one encoder directly under `tower:`"
    if values.get("type") not in (None, FUSED):
        yield (
            ("type",),
            f"{values['type']!r} is the type of one encoder, not of several. Try: write it into a part of `towers`",
        )
    for key in [key for key in values if key not in WHOLE]:
        advice = "write it into a part of `towers`"
        if key == "weights":
            advice += "; or for one encoder alone, `--set 'tower={weights: DIR}'`, or leave out `towers`"
        yield (key,), f"it describes one encoder, but `towers` are several. Try: {advice}"
    for place, part in enumerate(towers):
        if getattr(part, "towers", None) is not None:
            yield ("towers", place, "towers"), "a part has none of its own. Try: put all encoders into one list"
        if getattr(part, "delay_load", False):
            yield ("towers", place, "delay_load"), "all parts are loaded together. Try: write it beside `towers`"
