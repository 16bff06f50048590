"""Read YAML into plain data, and record the place of each value.

PyYAML alone reads ``1e-4`` as a string, ``on`` as True, ``010`` as 8 and ``1:30`` as 90, and silently keeps the last of two
equal keys. This loader follows YAML 1.2's core schema for plain values and rejects duplicate keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vita_core.errors import ConfigError
from vita_core.untrusted.files import TooLargeError, read_bytes

__all__ = ["Document", "Mark", "parse_value", "read_yaml"]

Key = tuple[str | int, ...]
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 1_000_000, 10_000, 50
"""Limits far above any config. Without them, a wrong file or nested aliases could take minutes to read."""


@dataclass(frozen=True)
class Mark:
    """The place of a value. `file` is a path, or a text such as ``--set``. Line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Document:
    """A mapping, and the mark of every key; in a list, the mark of every value."""

    data: dict[str, Any]
    marks: Mapping[Key, Mark]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the plain values of YAML 1.2's core schema: null, booleans, integers and floats, but no dates."""

    nodes = levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count the nodes and levels before they are made: a file of 1 MB can hold so many that it takes half a minute."""
        self.nodes, self.levels = self.nodes + 1, self.levels + 1
        if self.nodes > 2 * MOST_VALUES or self.levels > MOST_LEVELS + 1:  # a key and its value are two nodes
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs have no types for it
            place = Mark(str(self.name), mark.line + 1, mark.column + 1)
            raise _too_many(place) if self.levels <= MOST_LEVELS + 1 else _too_deep(place)
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1


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
    """Parse one YAML file whose top level is a mapping. Raises ConfigError with ``file:line:column``."""
    try:
        text = read_bytes(path, MOST_BYTES).decode("utf-8")
    except TooLargeError as error:
        raise ConfigError(
            f"{path}:1:1: the file is too large: {path.stat().st_size:,} bytes. A config has at most {MOST_BYTES:,}. "
            "Try: check that this file is a config"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}:1:1: cannot be read: {error}. Try: check its permissions, and save it as UTF-8"
        ) from error
    data, marks = _parse(text, str(path))
    if data is None:
        raise ConfigError(f"{path}:1:1: the file is empty. Try: add a section `tower: {{weights: DIR}}`")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:1:1: not a mapping of keys: a {type(data).__name__}. Try: start with `tower: {{weights: DIR}}`"
        )
    return Document(data, marks)


def parse_value(text: str, where: str) -> Any:
    """Parse the value of a ``--set key=value`` as YAML."""
    return _parse(text, where)[0]


def _parse(text: str, file: str) -> tuple[Any, dict[Key, Mark]]:
    marks: dict[Key, Mark] = {}
    try:
        loader = _Loader(text)
        loader.name = file
        node = loader.get_single_node()
        return (None, marks) if node is None else (_convert(loader, node, (), file, marks), marks)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file)
        raise ConfigError(
            f"{where}: not valid YAML: {error.problem or error.context}. Try: correct the syntax at this place"
        ) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = Mark(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise ConfigError(
            f"{where}: not valid YAML: character #x{ord(text[error.position]):04x} is not allowed. Try: remove it"
        ) from error
    except RecursionError as error:
        raise _too_deep(Mark(file)) from error


def _too_deep(place: Mark) -> ConfigError:
    return ConfigError(
        f"{place}: nested deeper than {MOST_LEVELS} levels. Try: fewer levels, and no alias that contains itself"
    )


def _too_many(place: Mark) -> ConfigError:
    return ConfigError(
        f"{place}: more than {MOST_VALUES:,} values, counting every use of an alias. Try: check that this file is a config"
    )


def _convert(loader: _Loader, node: yaml.Node, key: Key, file: str, marks: dict[Key, Mark]) -> Any:
    here = Mark(file, node.start_mark.line + 1, node.start_mark.column + 1)
    marks.setdefault(key, here)
    if len(key) > MOST_LEVELS:  # an alias that contains itself would never end
        raise _too_deep(here)
    if len(marks) > MOST_VALUES:
        raise _too_many(here)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(loader, child, (*key, i), file, marks) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except (ValueError, KeyError, AttributeError) as error:  # raised by PyYAML for an explicit tag: `!!int abc`
            raise ConfigError(
                f"{here}: the value does not match its tag {node.tag!r}: {node.value[:80]!r}. Try: remove the tag"
            ) from error
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        mark = Mark(file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if key_node.tag == _TAG + "merge":
            raise ConfigError(f"{mark}: `<<` is not part of YAML 1.2. Try: `extends`, or write the keys here")
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{mark}: the key is a list or a mapping. Try: a word as the key")
        name = key_node.value
        if name in result:
            raise ConfigError(
                f"{mark}: duplicate key: {name!r}, first at {marks[(*key, name)]}. Try: remove one of them"
            )
        marks[(*key, name)] = mark
        result[name] = _convert(loader, value_node, (*key, name), file, marks)
    return result
