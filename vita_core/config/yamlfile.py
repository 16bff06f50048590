"""YAML to plain data that remembers where each value stood.

PyYAML alone reads ``1e-4`` as a string, ``on`` as True, ``010`` as 8 and ``1:30`` as 90, and keeps the last of two equal
keys silently; this loader follows YAML 1.2's core schema for plain values and refuses duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vita_core.errors import ConfigError

__all__ = ["Document", "Mark", "parse_value", "read_yaml"]

Key = tuple[str | int, ...]
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 1_000_000, 10_000, 50
"""No config comes near these; a file of another kind, or a few aliases of aliases, would take minutes to be refused."""


@dataclass(frozen=True)
class Mark:
    """Where a value stands. `file` is a path, or a text such as ``--set``; line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Document:
    """A mapping, and the mark of every key (of the value itself inside a list)."""

    data: dict[str, Any]
    marks: Mapping[Key, Mark]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the plain values of YAML 1.2's core schema: null, booleans, integers and floats; no dates."""


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in {_TAG + "null", _TAG + "merge"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        "-+0123456789.",
    ),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), list(_first))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor(_TAG + "int", _integer)


def read_yaml(path: Path) -> Document:
    """Parse one YAML file whose top level is a mapping. Raises ConfigError with file:line:column."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ConfigError(f"{path}:1:1: has {size:,} bytes; a config has at most {MOST_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}:1:1: cannot be read: {error}") from error
    data, marks = _parse(text, str(path))
    if data is None:
        raise ConfigError(f"{path}:1:1: the file is empty; a config needs at least `tower:` and `llm:`")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1:1: expected a mapping of keys, found {type(data).__name__}")
    return Document(data, marks)


def parse_value(text: str, where: str) -> Any:
    """The value of a ``--set key=value``, read as YAML."""
    return _parse(text, where)[0]


def _parse(text: str, file: str) -> tuple[Any, dict[Key, Mark]]:
    marks: dict[Key, Mark] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (None, marks) if node is None else (_convert(loader, node, (), file, marks), marks)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file)
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = Mark(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise ConfigError(
            f"{where}: not valid YAML: character #x{ord(text[error.position]):04x} is not allowed"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{Mark(file)}: nested deeper than {MOST_LEVELS} levels") from error


def _convert(loader: _Loader, node: yaml.Node, key: Key, file: str, marks: dict[Key, Mark]) -> Any:
    here = Mark(file, node.start_mark.line + 1, node.start_mark.column + 1)
    marks.setdefault(key, here)
    if len(key) > MOST_LEVELS:  # an alias of what holds it has no end
        raise ConfigError(f"{here}: nested deeper than {MOST_LEVELS} levels")
    if len(marks) > MOST_VALUES:
        raise ConfigError(f"{here}: more than {MOST_VALUES:,} values, aliases counted as often as they stand")
    if isinstance(node, yaml.SequenceNode):
        return [_convert(loader, child, (*key, i), file, marks) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except (ValueError, KeyError, AttributeError) as error:  # PyYAML's, for a tag that is written out: `!!int abc`
            raise ConfigError(f"{here}: {node.value[:80]!r} is not what its tag {node.tag!r} says") from error
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = Mark(file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if key_node.tag == _TAG + "merge":
            raise ConfigError(
                f"{mark}: `<<` is no part of YAML 1.2; write `extends: other.yaml`, or the keys themselves"
            )
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{mark}: a key is a word, not a list or a mapping")
        name = key_node.value
        if name in result:
            raise ConfigError(f"{mark}: duplicate key {name!r}; it stands first at {marks[(*key, name)]}")
        marks[(*key, name)] = mark
        result[name] = _convert(loader, value_node, (*key, name), file, marks)
    return result
