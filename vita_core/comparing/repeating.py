"""Say how a comparison is repeated: its command and its configs, without the places of this machine."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vita_core.comparing.planned import Asked, Options
from vita_core.masking import masked

__all__ = ["command", "portable"]

DIRECTORIES = re.compile(r"(?<![\w.:/~-])/(?:[^/\s\"',\]}]+/)+")
"""The directories of an absolute path in a text, but not what follows the host in ``https://host/name``."""


def command(asked: Sequence[Asked], data: Path, options: Options) -> str:
    """Return the command of a comparison: ``vita sweep`` if it is over values, else ``vita compare``."""
    over = dict.fromkeys(text for one in asked for text in one.over)
    common = [text for text in asked[0].overrides if text not in over]
    words = ["vita", "sweep", *_files(asked[:1])] if over else ["vita", "compare", *_files(asked)]
    for option, texts in (("--over", over), ("--set", common)):
        words += [word for text in texts for word in (option, portable(text))]
    words += ["--data", data.name, "--seeds", str(len(options.seeds))]
    for option, value in (("--tokens", options.tokens), ("--steps", options.steps)):
        words += [] if value is None else [option, str(value)]
    words += ["--tune", f"learning_rate={','.join(f'{rate:g}' for rate in options.rates)}"] if options.rates else []
    words += ["--lmms-eval", portable(",".join(options.benchmarks))] if options.benchmarks else []
    return shlex.join([*words, *(["--unequal"] if options.unequal else []), "--out", "DIR"])


def _files(asked: Sequence[Asked]) -> list[str]:
    """Return the names of configs' files, with their folders where two have the same name."""
    paths = [Path(one.place) for one in asked]
    counts = Counter(path.name for path in paths)
    return [path.name if counts[path.name] == 1 else "/".join(path.absolute().parts[-2:]) for path in paths]


def portable(value: Any) -> Any:
    """Return plain data in which absolute paths are only the names of their files, and secrets are masked."""
    if isinstance(value, Mapping):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    return DIRECTORIES.sub("", masked(value)) if isinstance(value, str) else value
