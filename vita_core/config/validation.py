"""Data against a pydantic model; every problem in one error, with its place and the nearest valid key. No torch."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import pydantic

from vita_core.config.yamlfile import Key, Mark
from vita_core.errors import ConfigError, nearest

__all__ = ["Section", "validate"]

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Section(pydantic.BaseModel):
    """A section of a config: unknown keys and values of another type are refused, and nothing changes afterwards."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def validate(
    model: type[Model], data: Mapping[str, Any], marks: Mapping[Key, Mark] | None = None, *, section: str = ""
) -> Model:
    """`data` as a `model`; every problem told in one ConfigError, a line each, with its place and the nearest key.

    The place is the mark of the key, or, without `marks`, the `section` (``tower.options``) that `data` is.
    """
    try:
        return model.model_validate(dict(data))
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise ConfigError("\n".join(dict.fromkeys(_problem(model, p, marks, section) for p in problems))) from None


def _problem(model: type[pydantic.BaseModel], problem: Any, marks: Mapping[Key, Mark] | None, section: str) -> str:
    # a tagged union's tag ("(flag)") stands in pydantic's place of the problem, and is no key
    loc = tuple(part for part in problem["loc"] if not str(part).startswith("("))
    # pydantic also appends the branch of a union ("int", "list[int]", ...) to the place; marks know only real keys
    known = loc
    while marks is not None and known and known not in marks:
        known = known[:-1]
    prefix = f"{marks[known]}: " if marks is not None else f"{section}: " if section else ""
    names = ".".join(map(str, known if marks is not None and known else loc))
    named = f"{prefix}{names}: " if names else prefix
    kind, message = problem["type"], str(problem["msg"])
    if kind == "extra_forbidden":
        owner = _section(model, loc[:-1])
        keys = list(owner.model_fields) if owner else []
        where = f" in {'.'.join(map(str, loc[:-1]))!r}" if loc[:-1] else ""
        return f"{prefix}unknown key {loc[-1]!r}{where}.{nearest(str(loc[-1]), keys)} Valid keys: {', '.join(keys)}"
    if kind == "missing":
        return f"{prefix}required key {'.'.join(map(str, loc))!r} is missing"
    if kind == "value_error":
        return f"{named}{message.removeprefix('Value error, ')}"
    return f"{named}{message[0].lower()}{message[1:]}, not {reprlib.repr(problem['input'])}"


def _section(model: type[pydantic.BaseModel], loc: tuple[Any, ...]) -> type[pydantic.BaseModel] | None:
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            return None
        branches = [field.annotation, *get_args(field.annotation)]
        plain = [get_args(b)[0] if get_origin(b) is Annotated else b for b in branches]
        nested = [c for c in plain if isinstance(c, type) and issubclass(c, pydantic.BaseModel)]
        if not nested:
            return None
        model = nested[0]
    return model
