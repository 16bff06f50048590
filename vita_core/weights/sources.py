"""Find checkpoints: a directory, a file, a fetched asset or a hub id. This module reads configs but no weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita_core.errors import CheckpointError, nearest_path
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.schemas import check_object
from vita_core.untrusted.sizes import read_config
from vita_core.weights.assets import ASSET_PREFIX, asset_path
from vita_core.weights.hub import find_host
from vita_core.weights.shards import choose_file, local_files, shard_names, stored_keys

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Source", "commit", "expand", "is_path", "locate"]

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".gguf", ".onnx")
CONFIG_FILES = ("config.json", "open_clip_config.json")
PROCESSOR = "processor_config.json"
PREPROCESSORS = {"preprocessor_config.json": "image_processor", "video_preprocessor_config.json": "video_processor"}
"""The files that configure a processor of pictures or videos, and the parts of ``processor_config.json`` that may instead."""


@dataclass(frozen=True)
class Source:
    """A checkpoint: its configs, and the place of its files, a local `path` or a `hub_id` with its `revision`.

    `config` is the parsed config file, {} if there is none. `preprocessor` is the config of its processor of
    pictures or, without one, of videos, in `preprocessor_file`; or None. `published` is True if `config` comes from a
    plugin's table of known hub ids and not from the checkpoint.
    """

    weights: str
    path: Path | None
    hub_id: str | None
    revision: str | None
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None
    published: bool = False
    preprocessor_file: str | None = None

    def described_by(self, name: str) -> Source | None:
        """Return this checkpoint as its other config file `name` describes it (without a preprocessor), or None."""
        if self.path is None:
            found = _hub_json(str(self.hub_id), self.revision, (name,))
        else:
            file = (self.path if self.path.is_dir() else self.path.parent) / name
            found = read_config(file) if file.is_file() else None
        return None if found in (None, self.config) else replace(self, config=found, preprocessor=None, published=False)

    def files(self, patterns: tuple[str, ...], needed: Callable[[str], bool] | None = None) -> list[Path]:
        """Return the weight files: the file itself, or the file that matches the first pattern (all shards of an index).

        With `needed`, a function of a tensor's key, shards without a needed tensor are left out. From a hub, only these
        files are downloaded, into huggingface_hub's cache. Raises CheckpointError if no file matches, if several files
        match one pattern, or if a shard is missing.
        """
        if self.path is None:
            return _hub_files(self, patterns, needed)
        if self.path.is_file():
            return [self.path]
        return local_files(self.path, patterns, self.weights, needed)

    def keys(self, patterns: tuple[str, ...]) -> list[str]:
        """Return the key of every tensor in the files that `files` returns. No tensor is read, and of shards only the index."""
        if self.path is None:
            return stored_keys(_hub_file(self, patterns))
        if self.path.is_file():
            return stored_keys(self.path)
        chosen = choose_file([entry.name for entry in self.path.iterdir()], patterns, self.weights)
        return stored_keys(self.path / chosen)


def is_path(weights: str, base: Path | None = None) -> bool:
    """Return whether `weights` is a local path: it exists, starts with ``/``, ``.`` or ``~``, or ends in a file suffix."""
    if weights.startswith(ASSET_PREFIX) or not weights.strip():
        return False
    if weights.startswith(("/", ".", "~")) or weights.endswith(FILE_SUFFIXES):
        return True
    return ((base or Path()) / weights).exists()


def locate(
    weights: str,
    revision: str | None = None,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    offline: bool = False,
) -> Source:
    """Find a checkpoint and read its configs.

    `known` maps hub ids to their published configs, for repositories without a config file. With `offline`, these configs
    are used without a request to the hub. Raises CheckpointError for a path that does not exist, a name that is neither a
    path nor ``owner/name``, and a hub id that cannot be reached.
    """
    if weights.startswith(ASSET_PREFIX):
        path = asset_path(weights.removeprefix(ASSET_PREFIX))
        return _local(weights, path)
    if is_path(weights):
        return _local(weights, Path(weights).expanduser())
    if weights.count("/") != 1 or not all(weights.split("/")):
        raise CheckpointError(
            f"weights: neither an existing path nor a hub id: {weights!r}. Try: a path that starts with ./ or /, or a hub "
            "id of the form owner/name"
        )
    published = (known or {}).get(weights)
    if offline and published is not None:
        return Source(weights, None, weights, revision, published, None, published=True)
    own = _hub_json(weights, revision, CONFIG_FILES)
    config = published if own is None else own
    if config is None:
        raise CheckpointError(
            f"{weights} has no config: none of {', '.join(CONFIG_FILES)}, and no plugin knows its geometry. "
            "Try: download it, and put its config.json in the directory of the weights"
        )
    preprocessor, file = _preprocessor(lambda name: _hub_json(weights, revision, (name,)))
    return Source(weights, None, weights, revision, config, preprocessor, own is None, file)


def _local(weights: str, path: Path) -> Source:
    if not path.exists():
        raise CheckpointError(
            f"no such file or directory: {path}.{nearest_path(path)} Try: an existing path, or a hub id of the form owner/name"
        )
    directory = path if path.is_dir() else path.parent
    config: Mapping[str, Any] = {}
    for name in CONFIG_FILES:
        if (directory / name).is_file():
            config = read_config(directory / name)
            break
    preprocessor, file = _preprocessor(
        lambda name: read_object(directory / name) if (directory / name).is_file() else None
    )
    return Source(weights, path, None, None, config, preprocessor, preprocessor_file=file)


def _preprocessor(read: Callable[[str], Mapping[str, Any] | None]) -> tuple[Mapping[str, Any] | None, str | None]:
    """Return the config of the processor of pictures, else of videos, and the name of its file.

    It is a file of its own or, since transformers 5, a part of another file. `read` returns None for a missing file.
    """
    shared: Mapping[str, Any] | None = None
    for name, part in PREPROCESSORS.items():
        own = read(name)
        if own is not None:
            return own, name
        shared = read(PROCESSOR) or {} if shared is None else shared
        if part in shared:
            check_object(shared[part], PROCESSOR, part)
            return shared[part], PROCESSOR
    return None, None


def _offline_hint(hub_id: str, error: Exception) -> str:
    name = hub_id.partition("/")[2]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot get {hub_id} from the hub: {reason.rstrip('.')}. Try: check the network, or copy its directory here and "
        f"write `weights: ./{name}` (for a tower also `--set tower.weights=./{name}`)"
    )


def _hub_json(hub_id: str, revision: str | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    from huggingface_hub import _CACHED_NO_EXIST, HfApi, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            if try_to_load_from_cache(hub_id, name, revision=revision) is None:
                find_host()
            file = Path(HfApi().hf_hub_download(hub_id, name, revision=revision))
        except LocalEntryNotFoundError as error:  # offline; must come first, as a subclass of EntryNotFoundError
            if try_to_load_from_cache(hub_id, name, revision=revision) is _CACHED_NO_EXIST:  # as the hub once said
                continue
            raise CheckpointError(_offline_hint(hub_id, error)) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # huggingface_hub also raises its HTTP client's own exceptions
            raise CheckpointError(_offline_hint(hub_id, error)) from error
        return read_config(file) if name in CONFIG_FILES else read_object(file)
    return None


def commit(weights: str, revision: str | None) -> str | None:
    """Return the commit of a hub id at a revision, as the files in huggingface_hub's cache say, or None."""
    from huggingface_hub import try_to_load_from_cache

    if weights.startswith(ASSET_PREFIX) or is_path(weights):
        return None
    found = (try_to_load_from_cache(weights, name, revision=revision) for name in CONFIG_FILES)
    return next((Path(file).parent.name for file in found if isinstance(file, str)), None)


def _hub_files(source: Source, patterns: tuple[str, ...], needed: Callable[[str], bool] | None = None) -> list[Path]:
    """Download the file that `choose_file` chooses, or the needed shards that it lists if it is an index, and nothing else."""
    first = _hub_file(source, patterns)
    if not first.name.endswith(".index.json"):
        return [first]
    return [_downloaded(source, shard) for shard in shard_names(first, needed)]


def _hub_file(source: Source, patterns: tuple[str, ...]) -> Path:
    """Download the file that `choose_file` chooses."""
    from huggingface_hub import HfApi

    assert source.hub_id is not None
    try:
        names = _hub_names(HfApi(), source.hub_id, source.revision)
    except Exception as error:
        raise CheckpointError(_offline_hint(source.hub_id, error)) from error
    return _downloaded(source, choose_file(names, patterns, source.hub_id))


def _downloaded(source: Source, name: str) -> Path:
    from huggingface_hub import HfApi

    assert source.hub_id is not None
    try:
        return Path(HfApi().hf_hub_download(source.hub_id, name, revision=source.revision))
    except Exception as error:
        raise CheckpointError(_offline_hint(source.hub_id, error)) from error


def _hub_names(hub: HfApi, hub_id: str, revision: str | None) -> list[str]:
    """Return the names of the files at the top of a repository; without a network, of those in the local cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return [name for name in hub.list_repo_files(hub_id, revision=revision) if "/" not in name]
    except Exception as error:
        try:
            cached = Path(hub.snapshot_download(hub_id, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
        return [entry.name for entry in cached.iterdir()]


def expand(weights: str, base: Path) -> str:
    """Return `weights`, as written in a file in directory `base`, with a path made absolute; hub ids stay unchanged."""
    if not is_path(weights, base):
        return weights
    return os.path.abspath(base / Path(weights).expanduser())  # noqa: PTH100  # resolve() would follow the user's links
