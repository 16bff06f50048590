"""Where weights come from: a directory, a file, a fetched asset or a hub id. Reads configs, never weights; no torch."""

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
    """One checkpoint: its own configs, and where its files lie (`path`) or can be had (`hub_id`, `revision`).

    `config` is the parsed config file ({} where there is none), `preprocessor` the parsed
    ``preprocessor_config.json`` or None. `published`: `config` is what a plugin knows of the hub id, not a file of it.
    """

    weights: str
    path: Path | None
    hub_id: str | None
    revision: str | None
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None
    published: bool = False

    def files(self, patterns: tuple[str, ...]) -> list[Path]:
        """The weight files: the file itself, or the one of the first pattern present (all shards, where it is an index).

        Of a hub id just these are downloaded, into huggingface_hub's cache. Raises CheckpointError when none is there,
        or when several files match and it is not said which is meant.
        """
        if self.path is None:
            return _hub_files(self, patterns)
        if self.path.is_file():
            return [self.path]
        chosen = choose_file([entry.name for entry in self.path.iterdir()], patterns, self.weights)
        names = shard_names(self.path / chosen) if chosen.endswith(".index.json") else [chosen]
        missing = [name for name in names if not (self.path / name).is_file()]
        if missing:
            raise CheckpointError(f"{self.path / chosen} names {len(names)} shards; missing: {', '.join(missing)}")
        return [self.path / name for name in names]


def choose_file(names: Iterable[str], patterns: Sequence[str], weights: str) -> str:
    """The file of a checkpoint's `names` that holds its weights, or their index: what the first matching pattern means.

    Raises CheckpointError when no pattern matches, or one matches several files (they are listed, to choose from).
    """
    names = sorted(names)
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if len(found) > 1:
            raise CheckpointError(
                f"{weights} holds {len(found)} checkpoints ({', '.join(found)}); name the one you mean: a local file, "
                f"such as `weights: ./{found[0]}`"
            )
        if found:
            return found[0]
    raise CheckpointError(
        f"{weights}: no weights ({', '.join(patterns)}) in it; it holds {', '.join(names) or 'nothing'}"
    )


def shard_names(index: Path) -> list[str]:
    """The files that a ``*.index.json`` names, sorted. Raises CheckpointError when it names none."""
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    if not names:
        raise CheckpointError(f"{index} names no shards: its weight_map is missing or empty")
    return names


def is_path(weights: str, base: Path | None = None) -> bool:
    """Whether `weights` means a local path: it exists, or starts with ``/``, ``.``, ``~``, or ends in a file suffix."""
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

    `known` maps hub ids to published configs, for repositories that hold none; with `offline` they are taken without
    asking the hub. Raises CheckpointError for a path that does not exist, a name that is neither path nor
    ``owner/name``, and a hub id that cannot be reached.
    """
    if weights.startswith(ASSET_PREFIX):
        path = asset_path(weights.removeprefix(ASSET_PREFIX))
        return _local(weights, path)
    if is_path(weights):
        return _local(weights, Path(weights).expanduser())
    if weights.count("/") != 1 or not all(weights.split("/")):
        raise CheckpointError(
            f"weights {weights!r} is neither an existing path nor a hub id `owner/name`; "
            "write a local path with a leading ./ or /"
        )
    published = (known or {}).get(weights)
    if offline and published is not None:
        return Source(weights, None, weights, revision, published, None, published=True)
    own = _hub_json(weights, revision, CONFIG_FILES)
    config = published if own is None else own
    if config is None:
        raise CheckpointError(
            f"{weights} has none of {', '.join(CONFIG_FILES)}, and no plugin knows its geometry; download it and put its "
            "config.json beside the weights"
        )
    preprocessor = _hub_json(weights, revision, ("preprocessor_config.json",))
    return Source(weights, None, weights, revision, config, preprocessor, published=own is None)


def _local(weights: str, path: Path) -> Source:
    if not path.exists():
        parent = path.parent
        siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        raise CheckpointError(f"no such file or directory: {path}.{nearest(path.name, siblings)}")
    directory = path if path.is_dir() else path.parent
    config: Mapping[str, Any] = {}
    for name in CONFIG_FILES:
        if (directory / name).is_file():
            config = read_json(directory / name)
            break
    return Source(weights, path, None, None, config, _preprocessor(directory))


def _preprocessor(directory: Path) -> Mapping[str, Any] | None:
    """The image processor's config: a file of its own, or since transformers 5 a part of the processor's."""
    own, shared = directory / "preprocessor_config.json", directory / "processor_config.json"
    if own.is_file():
        return read_json(own)
    return read_json(shared).get("image_processor") if shared.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError with file:line:column for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}:1:1: expected a JSON object, found {type(data).__name__}")
    return data


def _offline_hint(hub_id: str, error: Exception) -> str:
    name = hub_id.partition("/")[2]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot get {hub_id} from the hub ({reason}). Without a network, copy its directory here and give the local "
        f"path instead: `weights: ./{name}` (or `--set tower.weights=./{name}`)"
    )


def _hub_json(hub_id: str, revision: str | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return read_json(Path(HfApi().hf_hub_download(hub_id, name, revision=revision)))
        except LocalEntryNotFoundError as error:  # offline; a subclass of EntryNotFoundError, so it stands first
            raise CheckpointError(_offline_hint(hub_id, error)) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # huggingface_hub leaks whatever its HTTP client raises
            raise CheckpointError(_offline_hint(hub_id, error)) from error
    return None


def _hub_files(source: Source, patterns: tuple[str, ...]) -> list[Path]:
    """Download the file that `choose_file` chooses of the repository, or the shards that it indexes; nothing else."""
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
    """Files at the top of a repository; without a network, those of it that were downloaded before."""
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
    """`weights` as written in a file of directory `base`: a path made absolute, anything else unchanged."""
    if not is_path(weights, base):
        return weights
    return os.path.abspath(base / Path(weights).expanduser())  # noqa: PTH100  # links are kept as the user wrote them
