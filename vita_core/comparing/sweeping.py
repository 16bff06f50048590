"""The configs of a sweep: one for each value of a key, or for each point of a grid of several keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from vita_core.comparing.planned import Asked
from vita_core.errors import ConfigError
from vita_core.untrusted.yamlfiles import parse_value

__all__ = ["swept"]


def swept(place: str, over: Sequence[str], overrides: Sequence[str] = ()) -> list[Asked]:
    """Return the configs for values ``KEY=VALUE`` of keys, in the order given. Several keys make a grid.

    A name says what is special about its config, such as ``select_layer=-2``. Raises ConfigError for what is no
    ``KEY=VALUE``, and for a value that is given twice.
    """
    values: dict[str, dict[str, Any]] = {}
    for text in over:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--over {text}: not of the form KEY=VALUE. Try: `--over tower.select_layer=-2`")
        known = values.setdefault(key, {})
        if value in known:
            raise ConfigError(f"--over {text}: given twice. Try: leave one of them out")
        known[value] = parse_value(value, f"--over {key}")
    if not values:
        raise ConfigError("--over: no value is given. Try: `--over tower.select_layer=-1 --over tower.select_layer=-2`")
    short = _short(list(values))
    points = list(product(*([(key, text, value) for text, value in found.items()] for key, found in values.items())))
    names = ["+".join(f"{short[key]}={_readable(value)}" for key, _, value in point) for point in points]
    return [
        Asked(
            name if names.count(name) == 1 else f"{name}.{number}",
            place,
            (*overrides, *(f"{key}={text}" for key, text, _ in point)),
            tuple(f"{key}={text}" for key, text, _ in point),
        )
        for number, (name, point) in enumerate(zip(names, points, strict=True), 1)
    ]


def _short(keys: Sequence[str]) -> Mapping[str, str]:
    """Return the last words of each key that tell it from the others."""
    short = {}
    for key in keys:
        words = key.split(".")
        ends = (".".join(words[-count:]) for count in range(1, len(words) + 1))
        short[key] = next(
            end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1 or end == key
        )
    return short


def _readable(value: Any) -> str:
    """Return a value as a part of a name: of a path its last part, of a list its values with commas."""
    if isinstance(value, str):
        text = value.rstrip("/").rpartition("/")[2]
    elif isinstance(value, list) and all(isinstance(one, int | float | str) for one in value):
        text = ",".join(map(str, value))
    else:
        text = json.dumps(value)
    return re.sub(r"[^\w.=,+-]+", "-", text).strip("-") if not re.fullmatch(r"-?[\w.,-]+", text) else text
