"""Check what a stranger wrote with a pydantic model, and say which file, key and value is wrong."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pydantic

from vita_core.errors import CheckpointError, dotted

__all__ = ["Outside", "check_methods", "check_object", "checked"]

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Outside(pydantic.BaseModel):
    """What a stranger wrote. Other keys are kept unread, and no value is converted: `1` is not `true`, and not a text."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, strict=True)


def checked(model: type[Model], data: Mapping[str, Any], file: str, inside: str = "") -> Model:
    """Return `data` as a `model`. Raises CheckpointError for the first wrong key. `inside` is the key of `data` in the `file`."""
    try:
        return model.model_validate(dict(data))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        value: Any = data
        names = [inside] if inside else []
        for part in first["loc"]:  # pydantic also adds the branch of a union
            if not (isinstance(value, Mapping) and part in value) and not (
                isinstance(value, list) and isinstance(part, int)
            ):
                break
            names.append(str(part))
            value = value[part]  # type: ignore[index]  # one of the two
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise CheckpointError(
            f"{file}: {dotted(names)}: {reprlib.repr(value)} is not {expected}. Try: correct that key, or download the file "
            "again"
        ) from None


def check_methods(keys: Iterable[str], of: type, where: str) -> None:
    """Raise CheckpointError for a key that is the name of a method: a library that makes attributes of keys would call it."""
    for key in keys:
        if callable(getattr(of, key, None)):
            raise CheckpointError(f"{where}: {dotted([key])}: it is the name of a method. Try: remove that key")


def check_object(value: object, file: str, key: str) -> None:
    """Raise CheckpointError unless the value of a key in a file is an object or null."""
    if value is not None and not isinstance(value, Mapping):
        raise CheckpointError(f"{file}: {key}: {reprlib.repr(value)} is not an object. Try: download the file again")
