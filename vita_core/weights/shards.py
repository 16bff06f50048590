"""Choose the weight files of a checkpoint: one file, or the shards of an index. No tensor is read."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vita_core.errors import CheckpointError, nearest_path
from vita_core.untrusted.files import check_name, inside
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.limits import INDEX
from vita_core.untrusted.tensorfiles import tensor_keys

__all__ = ["check_shards", "choose_file", "local_files", "named_files", "shard_names", "stored_keys"]

SHOWN = 20
"""How many names of files a message lists."""


def choose_file(names: Iterable[str], patterns: Sequence[str], weights: str) -> str:
    """Return the file among `names` that holds the weights or their index: the one that the first pattern matches.

    Raises CheckpointError if no pattern matches, or if a pattern matches several files.
    """
    names = sorted(names)
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if len(found) > 1:
            raise CheckpointError(
                f"{weights} holds {len(found)} weight files: {', '.join(found)}. Try: the path of one file, such as "
                f"`weights: ./{found[0]}`"
            )
        if found:
            return found[0]
    seen = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    raise CheckpointError(
        f"{weights} holds no weight file: it holds {seen or 'nothing'}. Try: a directory with one of "
        f"{', '.join(patterns)}"
    )


def shard_names(index: Path, needed: Callable[[str], bool] | None = None) -> list[str]:
    """Return the sorted names of the files in a ``*.index.json``: of all, or of those that hold a tensor that is `needed`."""
    return sorted({name for key, name in weight_map(index).items() if needed is None or needed(key)})


def weight_map(index: Path) -> dict[str, str]:
    """Return the file of each tensor in a ``*.index.json``. Raises CheckpointError if it lists none, or a path."""
    found = read_object(index, INDEX).get("weight_map")
    listed = found if isinstance(found, dict) else {}
    for value in [value for value in listed.values() if not isinstance(value, str)] or set(listed.values()):
        check_name(value, f"{index}: weight_map")
    if not listed:
        raise CheckpointError(f"{index} lists no shards: its weight_map is missing or empty. Try: download it again")
    return listed


def local_files(
    directory: Path, patterns: Sequence[str], weights: str, needed: Callable[[str], bool] | None = None
) -> list[Path]:
    """Return the weight files of a directory: the file that the first pattern matches, or the shards of an index.

    Of shards, only those are returned, and must exist, that hold a tensor whose key is `needed`.
    """
    chosen = choose_file([entry.name for entry in directory.iterdir()], patterns, weights)
    if not chosen.endswith(".index.json"):
        return [directory / chosen]
    names = shard_names(directory / chosen, needed)
    files = [inside(directory, name, directory / chosen) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{directory / chosen}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing)}. "
            f"Try: copy them to {directory}"
        )
    return files


def check_shards(directory: Path) -> None:
    """Raise CheckpointError if an index in a directory, which a library will follow, names files that are not beside it."""
    for index in sorted(directory.glob("*.index.json")):
        for name in shard_names(index):
            inside(directory, name, index)


def named_files(weights: str, patterns: Sequence[str], needed: Callable[[str], bool], advice: str) -> list[Path]:
    """Return the files of `weights`: a file, the index of shards, or a directory, of which `local_files` takes those.

    Raises CheckpointError with the `advice` if there is no such path.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        return local_files(path, patterns, weights, needed)
    if path.is_file():
        return local_files(path.parent, (glob.escape(path.name),), weights, needed)
    raise CheckpointError(f"no such file: {path}.{nearest_path(path)} Try: {advice}")


def stored_keys(file: Path) -> list[str]:
    """Return the key of every tensor in a weight file, or in the shards of an index, which need not exist."""
    return list(weight_map(file)) if file.name.endswith(".index.json") else list(tensor_keys([file]))
