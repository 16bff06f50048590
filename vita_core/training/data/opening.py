"""Open a data set: find its format, and return the source of its samples."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from vita_core.config.data import DataSetConfig, hub_name
from vita_core.errors import ConfigError, nearest_path
from vita_core.training.data.conversations import Root
from vita_core.training.data.folders import FolderSource, file_of_rows
from vita_core.training.data.jsonl import JsonSource
from vita_core.training.data.samples import Source
from vita_core.training.data.shards import TarSource
from vita_core.training.data.tables import DiskSource, ParquetSource

__all__ = ["expanded", "open_source"]

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
"""The files by which a directory of `datasets` is known."""
KINDS = (
    "a folder of pictures with .txt files, a .jsonl, a LLaVA or ShareGPT .json, a directory of `datasets`, .parquet files, "
    "or .tar shards"
)


def open_source(settings: DataSetConfig, key: str = "--data", *, absolute: bool = False) -> Source:
    """Return the source of a data set. `key` is how messages name it.

    If `absolute`, the rows of a JSON file may have absolute paths that lead out of the folder of the data set. Raises
    ConfigError for a path that does not exist, a format that is not known, a name on a hub, and an empty data set.
    """
    here = Path.cwd()
    if (hub := hub_name(settings.path, here)) is not None:
        name, revision = hub
        pinned = "" if revision is None else f" --revision {revision}"
        raise ConfigError(
            f"{key}: a data set on a hub, which is not read from here: {settings.path!r}. Try: "
            f"`hf download {name} --repo-type dataset{pinned} --local-dir DIR`, and the path DIR"
        )
    path = Path(settings.path).expanduser()
    files = expanded(path)
    if files is None and not path.exists():
        raise ConfigError(f"{key}: no such file or directory: {path}.{nearest_path(path)} Try: {KINDS}")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ConfigError(f"{key}: a device or a pipe, not a file: {path}. Try: save it to a file first")
    kind = _format(path, files, key) if settings.format == "auto" else settings.format
    folder = Path(settings.pictures or (path if path.is_dir() else path.parent)).expanduser()
    root = Root(folder, absolute and kind in ("jsonl", "llava"))
    source = _opened(kind, path, files, root, settings, key)
    if not len(source):
        raise ConfigError(f"{key}: there is no sample in {path}. Try: {file_of_rows(path, key) or KINDS}")
    return source


def _opened(kind: str, path: Path, files: list[Path] | None, root: Root, settings: DataSetConfig, key: str) -> Source:
    if kind == "folder":
        return FolderSource(path)
    if kind == "datasets":
        return DiskSource(path, root, settings.split)
    if kind in ("parquet", "webdataset"):
        suffix = ".parquet" if kind == "parquet" else ".tar"
        found = files or (sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path])
        missing = [file for file in found if not file.is_file()]
        if missing or not found:
            told = (
                f"{len(missing)} of {len(found)} files are missing, such as {missing[0]}"
                if missing
                else f"no {suffix} file"
            )
            raise ConfigError(f"{key}: {told} in {path.parent if missing else path}. Try: check the path")
        return ParquetSource(found, root) if kind == "parquet" else TarSource(found)
    return JsonSource(path, root, lines="jsonl" in (kind, path.suffix[1:]))


def _format(path: Path, files: list[Path] | None, key: str) -> str:
    """Return the format of a path that exists, or whose files do."""
    suffix = (files[0] if files else path).suffix
    if path.is_dir():
        if any((path / name).is_file() for name in SAVED):
            return "datasets"
        for kind, pattern in (("parquet", "*.parquet"), ("webdataset", "*.tar")):
            if next(path.rglob(pattern), None) is not None:
                return kind
        return "folder"
    known = {".jsonl": "jsonl", ".json": "llava", ".parquet": "parquet", ".tar": "webdataset"}
    if suffix not in known:
        raise ConfigError(f"{key}: a file of a format that is not known: {path}. Try: {KINDS}")
    return known[suffix]


def expanded(path: Path) -> list[Path] | None:
    """Return the files of a path with ranges such as ``{000..099}`` in it, or None if it has none."""
    pieces = RANGE.split(str(path))
    if len(pieces) == 1:
        return None
    ranges = [
        [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        for first, last in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    return [
        Path("".join(part for pair in zip(pieces[::3], [*numbers, ""], strict=True) for part in pair))
        for numbers in product(*ranges)
    ]
