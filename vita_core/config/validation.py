"""Validate data with a pydantic model, and report all problems in one error. Each has its place and the nearest valid key."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic

from vita_core.errors import ConfigError, dotted, nearest, split_advice
from vita_core.untrusted.yamlfiles import Key, Mark

__all__ = ["Section", "validate", "written"]

Model = TypeVar("Model", bound=pydantic.BaseModel)
EXPECTED = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a text, in quotes if it looks like a number",
    "list_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
}
"""pydantic's type of a problem, and what the value should be."""
WRITTEN: dict[str, str] = {}
"""Patterns of texts, and what the text should be."""


def written(pattern: str, expected: str) -> Any:
    """Return a field of pydantic whose text matches a `pattern`. Messages say instead that it should be what is `expected`."""
    WRITTEN[pattern] = expected
    return pydantic.Field(pattern=pattern)


class Section(pydantic.BaseModel):
    """A section of a config. Unknown keys and values of a wrong type are errors, and a section cannot be changed."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def validate(
    model: type[Model], data: Mapping[str, Any], marks: Mapping[Key, Mark] | None = None, *, section: str = ""
) -> Model:
    """Return `data` as a `model`. Raises one ConfigError with a line for each problem.

    Each line starts with the place of the key: its mark or, without `marks`, the name of the `section` that `data` is
    (``tower.options``).
    """
    try:
        return model.model_validate(dict(data))
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        places = [_place(problem, marks, data) for problem in problems]
        advice: dict[str, list[str]] = {}  # the types of a union are separate problems with one wrong value
        for problem, (loc, known) in zip(problems, places, strict=True):
            branch = len(loc) > len(known) and problem["type"] not in ("missing", "extra_forbidden")
            if branch and any(len(other) > len(known) and other[: len(known)] == known for _, other in places):
                continue  # another type of the union takes such a value, but for a part of it
            wrong, _, tried = _problem(model, problem, loc, known, marks, section).rpartition(" Try: ")
            advice.setdefault(next((told for told in advice if told.startswith(wrong)), wrong), []).append(tried)
        lines = [f"{wrong} Try: {' or '.join(dict.fromkeys(tried))}" for wrong, tried in advice.items()]
        raise ConfigError(*lines) from None


def _stated(data: Any, keys: tuple[Any, ...]) -> bool:
    """Return whether `data` has a value under these keys and places in lists."""
    for key in keys:
        if not (isinstance(data, list) and isinstance(key, int)) and not (isinstance(data, Mapping) and key in data):
            return False
        data = data[key]
    return True


def _place(problem: Any, marks: Mapping[Key, Mark] | None, data: Any) -> tuple[Key, Key]:
    """Return the location of a problem as pydantic states it, and the keys of it that the data has."""
    # pydantic adds the tag of a tagged union ("(flag)") to the location, but it is not a key; an unknown key may look like one
    unknown = problem["loc"][-1:] if problem["type"] == "extra_forbidden" else ()
    inner = problem["loc"][: len(problem["loc"]) - len(unknown)]
    loc = (*(part for part in inner if not str(part).startswith("(")), *unknown)
    # pydantic also adds the branch of a union ("int", "list[int]", ...); only real keys have a mark, or are in the data
    known: Key = ()
    for part in loc:
        deeper = (*known, part)
        known = deeper if (deeper in marks if marks is not None else _stated(data, deeper)) else known
    return loc, known


def _problem(
    model: type[pydantic.BaseModel],
    problem: Any,
    loc: Key,
    known: Key,
    marks: Mapping[Key, Mark] | None,
    section: str,
) -> str:
    prefix = f"{marks[known]}: " if marks is not None else f"{section}: " if section else ""
    names = dotted(known or loc)
    named = f"{prefix}{names}: " if names else prefix
    kind, message, owner = problem["type"], str(problem["msg"]), dotted(loc[:-1])
    if kind == "extra_forbidden":
        fields = _section(model, loc[:-1])
        keys = list(fields.model_fields) if fields else []
        where = f" in section {owner!r}" if owner else ""
        advice = f"one of {', '.join(keys)}" if keys else "leave it out"
        return f"{prefix}unknown key: {loc[-1]!r}{where}.{nearest(str(loc[-1]), keys)} Try: {advice}"
    if kind == "missing":
        where = f" to section {owner or section!r}" if owner or section else ""
        return f"{prefix}required key is missing: {dotted(loc)!r}. Try: add {loc[-1]!r}{where}"
    if kind == "value_error":
        wrong, advice = split_advice(message.removeprefix("Value error, "))
        return f"{named}{wrong}. Try: {advice or 'another value, or leave the key out'}"
    return f"{named}{_wrong_value(kind, message, problem['input'])}"


def _wrong_value(kind: str, message: str, value: Any) -> str:
    """Return the problem of one value, from pydantic's type of the problem and its message."""
    wrong = f"wrong value: {reprlib.repr(value)}."
    if kind == "literal_error" and isinstance(value, str):
        wrong += nearest(value, re.findall(r"'([^']*)'", message))
    expected = EXPECTED.get(kind)
    if kind == "string_pattern_mismatch" and (found := re.fullmatch(r"String should match pattern '(.*)'", message)):
        expected = WRITTEN.get(found[1], f"a text that matches the regular expression {found[1]}")
    if expected is None and (found := re.fullmatch(r"Input should be (.+)", message)):
        expected = f"a value {found[1]}" if found[1].startswith(("greater", "less")) else found[1]
    if expected is None and (found := re.fullmatch(r"(\w+) should have (.+?)(?: after validation, not .+)?", message)):
        expected = f"a {found[1].lower()} with {found[2]}"
    return f"{wrong} Try: {expected}" if expected else f"{wrong} {message}. Try: another value, or leave the key out"


def _section(model: type[pydantic.BaseModel], loc: tuple[Any, ...]) -> type[pydantic.BaseModel] | None:
    """Return the model of the section at `loc`, or None if there is no section."""
    named = False
    for part in loc:
        if isinstance(part, int) or named:  # a place in a list of sections, or the name of one in a mapping
            named = False
            continue
        field = model.model_fields.get(part)
        if field is None:
            return None
        branches = [field.annotation, *get_args(field.annotation)]
        branches += [item for branch in branches if get_origin(branch) is list for item in get_args(branch)]
        plain = [get_args(b)[0] if get_origin(b) is Annotated else b for b in branches]
        nested = [c for c in plain if isinstance(c, type) and issubclass(c, pydantic.BaseModel)]
        if not nested:
            return None
        model, named = nested[0], get_origin(field.annotation) is dict
    return model
