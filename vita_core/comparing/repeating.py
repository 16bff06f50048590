"""Say how a comparison is repeated: its command and its configs, without the places of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vita_core.comparing.planned import Asked, Options
from vita_core.masking import masked
from vita_core.untrusted.yamlfiles import parse_value

__all__ = ["command", "portable", "readable"]

DIRECTORIES = re.compile(r"(?<=[\"'])~?/(?:[^/\"']+/)+|(?<![\w.:/~-])~?/(?:[^/\s\"',\]}]+/)+")
"""The directories of an absolute path in a text, but not what follows the host in ``https://host/name``.

Only a path in quotes may have blanks in its directories.
"""
PATHS = ("weights", "adapter", "newline", "path", "pictures")
"""The last words of keys whose value is a path as a whole (`vita_core.config.configfiles.PATH_KEYS`)."""


def command(asked: Sequence[Asked], data: Path, options: Options) -> str:
    """Return the command of a comparison: ``vita sweep`` if it is over values, else ``vita compare``."""
    over = dict.fromkeys(text for one in asked for text in one.over)
    common = [text for text in asked[0].overrides if text not in over]
    words = ["vita", "sweep", *_files(asked[:1])] if over else ["vita", "compare", *_files(asked)]
    for option, texts in (("--over", over), ("--set", common)):
        words += [word for text in texts for word in (option, _override(text))]
    words += ["--data", _name(data), "--seeds", str(len(options.seeds))]
    for option, value in (("--tokens", options.tokens), ("--steps", options.steps)):
        words += [] if value is None else [option, str(value)]
    words += ["--tune", f"learning_rate={','.join(f'{rate:g}' for rate in options.rates)}"] if options.rates else []
    words += ["--lmms-eval", ",".join(_benchmark(task) for task in options.benchmarks)] if options.benchmarks else []
    return shlex.join([*words, *(["--unequal"] if options.unequal else []), "--out", "DIR"])


def _files(asked: Sequence[Asked]) -> list[str]:
    """Return the names of configs' files, with their folders where two have the same name."""
    names = [_name(one.place) for one in asked]
    counts = Counter(names)
    return [
        name if counts[name] == 1 else "/".join(Path(os.path.abspath(one.place)).parts[-2:])  # noqa: PTH100  # not the target of a link
        for one, name in zip(asked, names, strict=True)
    ]


def _name(place: str | Path) -> str:
    """Return the name of a file or folder, also of ``.``."""
    return Path(os.path.abspath(place)).name  # noqa: PTH100  # `resolve` would follow a link


def _benchmark(task: str) -> str:
    return _name(task) if task.endswith((".yaml", ".yml")) else task


def _override(text: str) -> str:
    """Return ``KEY=VALUE`` without the directories of its paths. It stays as it is written if there are none."""
    key, equals, written = text.partition("=")
    value = {key.rpartition(".")[2]: parse_value(written, key)}
    shown = portable(value)
    if shown == value:
        return text
    (found,) = shown.values()
    return f"{key}{equals}{found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)}"


def portable(value: Any, key: str = "") -> Any:
    """Return plain data, the value of a key. Absolute paths become the names of their files, and secrets are masked."""
    if isinstance(value, Mapping):
        return {name: portable(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    if key in PATHS and value.startswith(("/", "~/")):
        return masked(Path(value).name)
    return DIRECTORIES.sub("", masked(value))


def readable(message: str) -> str:
    """Return the first line of a message, with the names of files instead of their places on this machine."""
    first = next(iter(message.strip().splitlines()), "no message")
    for folder in (Path.cwd(), Path.home()):  # whose names may have blanks
        first = first.replace(f"{folder}/", "")
    return str(portable(first))
