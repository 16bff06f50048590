"""Read what a comparison wrote before: which configs of which data are in a directory, and what each run gave.

A full disk, an editor or a copy may have damaged a file. What can be made again is then made again; the rest is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from vita_core.comparing.planned import Planned
from vita_core.errors import ConfigError, VitaError
from vita_core.untrusted.files import read_bytes
from vita_core.untrusted.jsonfiles import BadJson, decode
from vita_core.untrusted.limits import RECORD

__all__ = [
    "AGAIN",
    "COMPARED",
    "OPTIONAL",
    "Kinds",
    "compared",
    "fits",
    "read_known",
    "read_rows",
    "read_written",
    "refuse_unwritable",
    "showing",
]

COMPARED = "compared.json"
AGAIN = "the command of the comparison with the same --out, which reads the finished runs"
"""How the results are written again."""
Kinds = Mapping[str, type | tuple[type, ...]]
SCORED: Kinds = {"image": str, "group": int, "loss": float, "answer": str, "named": bool, "shuffled": bool}
"""The keys of a row of ``test.jsonl``."""
OPTIONAL = (int, float, NoneType)
"""A number or null."""


def read_known(file: Path, kinds: Kinds) -> dict[str, Any] | None:
    """Return the data of a JSON file, an object with keys of these types, or None if it is missing or damaged."""
    try:
        found = decode(read_bytes(file, RECORD.bytes), RECORD)
    except (OSError, ValueError):
        return None
    return found if fits(found, kinds) else None


def read_rows(file: Path, groups: Sequence[int]) -> list[dict[str, Any]] | None:
    """Return the rows of a ``test.jsonl`` about pictures of these groups, or None if it is missing or damaged."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: an answer may contain U+2028
        rows = [decode(line, RECORD) for line in lines if line]
    except (OSError, ValueError):
        return None
    whole = all(fits(row, SCORED) and math.isfinite(row["loss"]) for row in rows)
    return rows if whole and [row["group"] for row in rows] == [*groups] else None


def fits(found: Any, kinds: Kinds) -> bool:
    """Return whether plain data is an object with keys of these types."""
    return isinstance(found, dict) and all(key in found and isinstance(found[key], kinds[key]) for key in kinds)


def read_written(file: Path, advice: str, option: str = "") -> dict[str, Any]:
    """Return the data of a JSON file that a comparison wrote. Raises VitaError with the place for a damaged one."""
    place = f"{option}{file}"
    try:
        found = decode(read_bytes(file, RECORD.bytes), RECORD)
    except BadJson as error:
        raise VitaError(f"{place}:{error.line}:{error.column}: {error.reason}. Try: {advice}") from error
    except ValueError as error:
        raise VitaError(f"{place}: {error}. Try: {advice}") from error
    if not isinstance(found, dict):
        raise VitaError(f"{place}:1:1: not a JSON object: a {type(found).__name__}. Try: {advice}")
    return found


@contextmanager
def showing(source: Path, *others: type[Exception], new: bool) -> Iterator[None]:
    """Convert what a block raises for a comparison of another form to a VitaError that names its file.

    Of a `new` file, which this process has just written, it is a bug of this version, and stays what it is.
    """
    form: tuple[type[Exception], ...] = (LookupError, TypeError, AttributeError, ValueError, *others)
    expected = () if new else form
    try:
        yield
    except VitaError:
        raise
    except expected as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise VitaError(
            f"{source}: not a comparison that can be shown: {what}. Another version may have made it. Try: {AGAIN}"
        ) from error


def refuse_unwritable(out: Path) -> None:
    """Raise ConfigError for a directory that cannot be written, before anything is read."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--out: {there} is a file. Try: a directory for --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out: {there} cannot be written. Try: another directory for --out, or its permissions")


def compared(out: Path, data: str, planned: Sequence[Planned]) -> str:
    """Return the record of what is compared in `out`, data with the hash `data`, for the file `COMPARED`.

    Raises ConfigError if the runs there are of other data or of other configs, and VitaError if the record is damaged.
    Configs and seeds may be added.
    """
    record = out / COMPARED
    stated = {one.name: one.resolved.config.model_dump_json(exclude_defaults=True) for one in planned}
    configs = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in stated.items()}
    known: Mapping[str, Any] = {"data": data, "configs": {}}
    if record.is_file():
        advice = "another directory for --out, since this file says what its runs are of"
        known = read_written(record, advice, "--out: ")
        if not fits(known, {"data": str, "configs": dict}):
            raise ConfigError(f"--out: {record}: not the record of a comparison. Try: {advice}")
    elif out.is_dir() and (out / "runs").exists():
        raise ConfigError(f"--out: {out} contains runs that no comparison made. Try: another directory for --out")
    other = [name for name, digest in configs.items() if known["configs"].get(name, digest) != digest]
    if known["data"] != data or other:
        what = f"another config of the name {other[0]!r}, or its tokens or steps" if other else "other data"
        raise ConfigError(f"--out: {out} contains a comparison of {what}. Try: another directory for --out")
    return json.dumps({"data": data, "configs": {**known["configs"], **configs}})
