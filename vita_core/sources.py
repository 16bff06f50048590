"""Where weights come from: a directory, a file, a fetched asset or a hub id. Reads configs, never weights; no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.assets import ASSET_PREFIX, asset_path
from vita_core.errors import CheckpointError, nearest

__all__ = ["Source", "is_path", "locate", "read_json"]

FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".gguf", ".onnx")
CONFIG_FILES = ("config.json", "open_clip_config.json")


@dataclass(frozen=True)
class Source:
    """One checkpoint: its own configs, and where its files lie (`path`) or can be had (`hub_id`, `revision`).

    `config` is the parsed config file ({} where there is none), `preprocessor` the parsed
    ``preprocessor_config.json`` or None.
    """

    weights: str
    path: Path | None
    hub_id: str | None
    revision: str | None
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] | None

    def files(self, patterns: tuple[str, ...]) -> list[Path]:
        """The weight files: the file itself, or those of the first pattern present (all shards of an index).

        A hub id is downloaded (into huggingface_hub's cache) first. Raises CheckpointError when none is there.
        """
        if self.path is not None and self.path.is_file():
            return [self.path]
        directory = self.path if self.path is not None else _download(self, patterns)
        for pattern in patterns:
            if found := sorted(directory.glob(pattern)):
                return _shards(found[0]) if found[0].name.endswith(".index.json") else found
        present = ", ".join(sorted(entry.name for entry in directory.iterdir())) or "nothing"
        raise CheckpointError(f"{self.weights}: no weights ({', '.join(patterns)}) in it; it holds {present}")


def is_path(weights: str, base: Path | None = None) -> bool:
    """Whether `weights` means a local path: it exists, or starts with ``/``, ``.``, ``~``, or ends in a file suffix."""
    if weights.startswith(ASSET_PREFIX):
        return False
    if weights.startswith(("/", ".", "~")) or weights.endswith(FILE_SUFFIXES):
        return True
    return ((base or Path()) / weights).exists()


def locate(weights: str, revision: str | None = None, known: Mapping[str, Mapping[str, Any]] | None = None) -> Source:
    """Find a checkpoint and read its configs.

    `known` maps hub ids to published configs, used instead of asking the hub. Raises CheckpointError for a path that
    does not exist, a name that is neither path nor ``owner/name``, and a hub id that cannot be reached.
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
    if known and weights in known:
        return Source(weights, None, weights, revision, known[weights], None)
    config = _hub_json(weights, revision, CONFIG_FILES)
    if config is None:
        raise CheckpointError(f"{weights} has none of {', '.join(CONFIG_FILES)}; set `type:` and download it")
    preprocessor = _hub_json(weights, revision, ("preprocessor_config.json",))
    return Source(weights, None, weights, revision, config, preprocessor)


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


def _shards(index: Path) -> list[Path]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise CheckpointError(f"{index} names {len(names)} shards; missing: {', '.join(missing) or 'all'}")
    return [index.parent / name for name in names]


def _offline_hint(hub_id: str, error: Exception) -> str:
    name = hub_id.partition("/")[2]
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"cannot get {hub_id} from the hub ({reason}). Without a network, copy its directory here and give the local "
        f"path instead: `weights: ./{name}` (or `--set tower.weights=./{name}`)"
    )


def _hub_json(hub_id: str, revision: str | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return read_json(Path(hf_hub_download(hub_id, name, revision=revision)))
        except LocalEntryNotFoundError as error:  # offline; a subclass of EntryNotFoundError, so it stands first
            raise CheckpointError(_offline_hint(hub_id, error)) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # huggingface_hub leaks whatever its HTTP client raises
            raise CheckpointError(_offline_hint(hub_id, error)) from error
    return None


def _download(source: Source, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    assert source.hub_id is not None
    # weights come as safetensors where the repository has them, so that a second copy as .bin is not fetched
    safe = [p for p in patterns if "safetensors" in p]
    attempts = [safe, list(patterns)] if safe else [list(patterns)]
    for wanted in attempts:
        allowed = ["*.json", *[p.replace(".index.json", "") for p in wanted], "*-of-*.safetensors"]
        try:
            path = Path(snapshot_download(source.hub_id, revision=source.revision, allow_patterns=allowed))
        except Exception as error:
            raise CheckpointError(_offline_hint(source.hub_id, error)) from error
        if any(path.glob(pattern) for pattern in wanted if list(path.glob(pattern))):
            return path
    return path


def expand(weights: str, base: Path) -> str:
    """`weights` as written in a file of directory `base`: a path made absolute, anything else unchanged."""
    if not is_path(weights, base):
        return weights
    return os.path.abspath(base / Path(weights).expanduser())  # noqa: PTH100  # links are kept as the user wrote them
