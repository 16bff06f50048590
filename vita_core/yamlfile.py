"""YAML to plain data that remembers where each value stood.

PyYAML alone reads ``1e-4`` as a string and ``on`` as True, and keeps the last of two equal keys silently; this loader
follows YAML 1.2's core schema for both and refuses duplicates.
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
    """SafeLoader with YAML 1.2's booleans and floats."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Document:
    """Parse one YAML file whose top level is a mapping. Raises ConfigError with file:line:column."""
    try:
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
    loader = _Loader(text)
    marks: dict[Key, Mark] = {}
    try:
        node = loader.get_single_node()
        return (None, marks) if node is None else (_convert(loader, node, (), file, marks), marks)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file)
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{Mark(file)}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _convert(loader: _Loader, node: yaml.Node, key: Key, file: str, marks: dict[Key, Mark]) -> Any:
    marks.setdefault(key, Mark(file, node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.SequenceNode):
        return [_convert(loader, child, (*key, i), file, marks) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name = str(loader.construct_object(key_node))
        mark = Mark(file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if name in result:
            raise ConfigError(f"{mark}: duplicate key {name!r}; it stands first at {marks[(*key, name)]}")
        marks[(*key, name)] = mark
        result[name] = _convert(loader, value_node, (*key, name), file, marks)
    return result
