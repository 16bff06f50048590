"""Find checkpoints: a directory, a file, a fetched asset or a hub id. This module reads configs but no weights."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita_core.errors import CheckpointError, nearest
from vita_core.weights.assets import ASSET_PREFIX, asset_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Source", "choose_file", "expand", "is_path", "locate", "read_json", "shard_names"]

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".gguf", ".onnx")
CONFIG_FILES = ("config.json", "open_clip_config.json")


@dataclass(frozen=True)
class Source:
    """A checkpoint: its configs, and the place of its files, a local `path` or a `hub_id` with its `revision`.

    `config` is the parsed config file, {} if there is none. `preprocessor` is the parsed ``preprocessor_config.json``, or
    None. `published` is True if `config` comes from a plugin's table of known hub ids and not from the checkpoint.
    """

    weights: str
    path: Path | None
    hub_id: str | None
    revision: str | None
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None
    published: bool = False

    def files(self, patterns: tuple[str, ...]) -> list[Path]:
        """Return the weight files: the file itself, or the file that matches the first pattern (all shards of an index).

        From a hub, only these files are downloaded, into huggingface_hub's cache. Raises CheckpointError if no file
        matches, or if several files match one pattern.
        """
        if self.path is None:
            return _hub_files(self, patterns)
        if self.path.is_file():
            return [self.path]
        chosen = choose_file([entry.name for entry in self.path.iterdir()], patterns, self.weights)
        names = shard_names(self.path / chosen) if chosen.endswith(".index.json") else [chosen]
        missing = [name for name in names if not (self.path / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{self.path / chosen}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing)}. "
                f"Try: copy them to {self.path}"
            )
        return [self.path / name for name in names]


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
    raise CheckpointError(
        f"{weights} holds no weight file: it holds {', '.join(names) or 'nothing'}. Try: a directory with one of "
        f"{', '.join(patterns)}"
    )


def shard_names(index: Path) -> list[str]:
    """Return the sorted names of the files in a ``*.index.json``. Raises CheckpointError if it lists none, or a path."""
    weight_map = read_json(index).get("weight_map")
    values = list(weight_map.values()) if isinstance(weight_map, dict) else []
    wrong = [value for value in values if not isinstance(value, str) or not value or Path(value).name != value]
    if wrong:  # an index comes from a stranger: it must not name files outside its directory
        raise CheckpointError(
            f"{index}: weight_map: not the name of a file beside it: {wrong[0]!r}. Try: download it again"
        )
    names = sorted(set(values))
    if not names:
        raise CheckpointError(f"{index} lists no shards: its weight_map is missing or empty. Try: download it again")
    return names


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
    preprocessor = _hub_json(weights, revision, ("preprocessor_config.json",))
    return Source(weights, None, weights, revision, config, preprocessor, published=own is None)


def _local(weights: str, path: Path) -> Source:
    if not path.exists():
        parent = path.parent
        siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        raise CheckpointError(
            f"no such file or directory: {path}.{nearest(path.name, siblings)} Try: an existing path, or a hub id of the "
            "form owner/name"
        )
    directory = path if path.is_dir() else path.parent
    config: Mapping[str, Any] = {}
    for name in CONFIG_FILES:
        if (directory / name).is_file():
            config = read_json(directory / name)
            break
    return Source(weights, path, None, None, config, _preprocessor(directory))


def _preprocessor(directory: Path) -> Mapping[str, Any] | None:
    """Return the config of the image processor: a file of its own or, since transformers 5, a part of another file."""
    own, shared = directory / "preprocessor_config.json", directory / "processor_config.json"
    if own.is_file():
        return read_json(own)
    return read_json(shared).get("image_processor") if shared.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError with ``file:line:column`` for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}. Try: download the file again"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: not a config: nested too deep. Try: download the file again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}. Try: check its permissions, or download the file again"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}:1:1: not a JSON object: a {type(data).__name__}. Try: download the file again")
    return data


def _offline_hint(hub_id: str, error: Exception) -> str:
    name = hub_id.partition("/")[2]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot get {hub_id} from the hub: {reason.rstrip('.')}. Try: check the network, or copy its directory here and "
        f"write `weights: ./{name}` (for a tower also `--set tower.weights=./{name}`)"
    )


def _hub_json(hub_id: str, revision: str | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return read_json(Path(HfApi().hf_hub_download(hub_id, name, revision=revision)))
        except LocalEntryNotFoundError as error:  # offline; must come first, as a subclass of EntryNotFoundError
            raise CheckpointError(_offline_hint(hub_id, error)) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # huggingface_hub also raises its HTTP client's own exceptions
            raise CheckpointError(_offline_hint(hub_id, error)) from error
    return None


def _hub_files(source: Source, patterns: tuple[str, ...]) -> list[Path]:
    """Download the file that `choose_file` chooses, or the shards that it lists if it is an index, and nothing else."""
    from huggingface_hub import HfApi

    assert source.hub_id is not None
    hub, revision = HfApi(), source.revision
    try:
        name = choose_file(_hub_names(hub, source.hub_id, revision), patterns, source.hub_id)
        first = Path(hub.hf_hub_download(source.hub_id, name, revision=revision))
        if not name.endswith(".index.json"):
            return [first]
        return [Path(hub.hf_hub_download(source.hub_id, shard, revision=revision)) for shard in shard_names(first)]
    except CheckpointError:
        raise
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
