"""Compare the files of a directory with the hashes in its provenance, and list what differs.

The provenance is the ``provenance.json`` of a saved or a trained model, or the ``asset.json`` of an asset in the cache. It
comes with the directory, so its names may be anything: a file outside the directory is never read for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vita_core.errors import CheckpointError, nearest_path, split_advice
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.tensorfiles import tensors_sha256
from vita_core.weights.assets import ASSET_PREFIX, RECORD, cache_dir
from vita_core.weights.files import sha256

__all__ = ["FINDINGS", "PROVENANCE", "Check", "Row", "Verification"]

PROVENANCE = "provenance.json"
FINDINGS = ("changed", "missing", "extra", "refused")
BESIDE = (
    *("work", "metrics.jsonl", "rejected.jsonl", "tensorboard", "wandb", "mlruns"),
    *("run.json", "test.jsonl", "lmms_eval", "lmms_eval.json", "error.txt"),
)
"""What trainings and comparisons go on writing beside a model: state, logs and scores. Opening the model reads none of it."""
Status = Literal["intact", "changed", "missing", "extra", "refused", "not covered"]


@dataclass(frozen=True)
class Row:
    """What is known of one file. `part` is the part of the model whose weights lie elsewhere, or "" for the directory's own.

    `status` is ``intact``, one of `FINDINGS` (``refused`` is a name that leads out of the directory), or ``not covered``.
    """

    path: str
    status: Status
    reason: str = ""
    part: str = ""


@dataclass(frozen=True)
class Check:
    """A file and the hash that it must have: of its bytes, or with `tensors`, of its tensors (see `tensors_sha256`)."""

    path: str
    file: Path
    digest: str
    part: str = ""
    tensors: bool = False

    def run(self, advance: Callable[[int], Any] = lambda count: None) -> Row:
        """Hash the file. `advance` is called with the number of bytes that were read since its last call."""
        if not self.file.is_file():
            return Row(self.path, "missing", f"no such file: {self.file}", self.part)
        try:
            found = tensors_sha256(self.file) if self.tensors else sha256(self.file, advance)
        except (OSError, CheckpointError) as error:
            return Row(self.path, "changed", split_advice(str(error))[0], self.part)
        if self.tensors:
            advance(self.file.stat().st_size)
        if found == self.digest:
            return Row(self.path, "intact", part=self.part)
        of = " of its tensors" if self.tensors else ""
        return Row(self.path, "changed", f"its SHA-256{of} is {found}, recorded {self.digest}", self.part)


class Verification:
    """The checks of a directory. Raises CheckpointError if it has no provenance, or one that names no file."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.record_file = directory, _record_file(directory)
        record = read_object(self.record_file)
        self.checks: list[Check] = []
        self.rows: list[Row] = []
        """What is known without hashing a file."""
        complete = self._own(record)
        self._unnamed(complete)
        for key in ("sources", "weights"):
            for found in _sources(record.get(key), ""):
                self._add(found)

    @property
    def size(self) -> int:
        """How many bytes are hashed."""
        return sum(check.file.stat().st_size for check in self.checks if check.file.is_file())

    def run(self, advance: Callable[[int], Any] = lambda count: None) -> list[Row]:
        """Hash the files (see `Check.run`). Return a row for each file, the directory's own first."""
        rows = [*(check.run(advance) for check in self.checks), *self.rows]
        return sorted(rows, key=lambda row: (bool(row.part), row.part, row.path))

    def _add(self, found: Check | Row) -> None:
        if isinstance(found, Check):
            self.checks.append(found)
        else:
            self.rows.append(found)

    def _own(self, record: Mapping[str, Any]) -> bool:
        """Add the files of the directory that `record` names. Return whether it names all."""
        plain = _digests(record.get("files"), "files", self.record_file)
        tensors = _digests(record.get("tensors_sha256"), "tensors_sha256", self.record_file)
        if "projector_sha256" in record:  # written by trainings before there was `tensors_sha256`
            early = {"projector.safetensors": record["projector_sha256"]}
            plain |= _digests(early, "projector_sha256", self.record_file)
            plain |= _digests(record.get("reduce_sha256"), "reduce_sha256", self.record_file)
        if not plain and not tensors:
            raise CheckpointError(
                f"{self.record_file} has no hashes: none of files, tensors_sha256 and projector_sha256. Try: a directory that "
                "vita train or model.save wrote"
            )
        for named, of_tensors in ((plain, False), (tensors, True)):
            for name, digest in named.items():
                inside = _inside(self.directory, name)
                if inside is None:
                    self.rows.append(Row(name, "refused", "its name leads out of the directory; it was not read"))
                else:
                    self.checks.append(Check(name, inside, digest, tensors=of_tensors))
        return self.record_file.name == RECORD or "config.yaml" in plain

    def _unnamed(self, complete: bool) -> None:
        """Add the files of the directory that the provenance does not name."""
        named = {PurePosixPath(check.path).as_posix() for check in self.checks} | {self.record_file.name}
        for path in _listed(self.directory):
            if path in named:
                continue
            if path.partition("/")[0] in BESIDE:
                why = "a record of the training, which no model reads"
            elif any(part.startswith(".") for part in path.split("/")):
                why = "a hidden file, which no model reads"
            elif complete:
                self.rows.append(Row(path, "extra", f"{self.record_file.name} does not name it"))
                continue
            else:
                why = f"{self.record_file.name} has no hash of it"
            self.rows.append(Row(path, "not covered", why))


def _record_file(directory: Path) -> Path:
    if not directory.is_dir():
        kind = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(
            f"{directory} {kind}.{nearest_path(directory)} Try: the directory of a trained or saved model"
        )
    for name in (PROVENANCE, RECORD):
        if (directory / name).is_file():
            return directory / name
    below = [path.parent.name for path in sorted(directory.glob(f"*/{PROVENANCE}"))]
    inside = (
        f"one of its directories {', '.join(below[:5])}" if below else "a directory that vita train or model.save wrote"
    )
    raise CheckpointError(
        f"{directory} has no {PROVENANCE}, so there are no hashes to compare its files with. Try: {inside}"
    )


def _digests(named: Any, key: str, record: Path) -> dict[str, str]:
    """Return file name -> SHA-256 of a mapping in a record. The record of an asset has mappings with ``sha256``."""
    if named is None:
        return {}
    found = {}
    for name, digest in named.items() if isinstance(named, Mapping) else [("", named)]:
        value = digest.get("sha256") if isinstance(digest, Mapping) else digest
        if not name or not isinstance(value, str):
            raise CheckpointError(
                f"{record}: {key}: not a mapping of file names to SHA-256 hashes: {str(digest)[:80]!r}. Try: copy the directory "
                "again from where it was made"
            )
        found[name] = value.lower()
    return found


def _inside(directory: Path, name: str) -> Path | None:
    """Return the path of a file in a directory, or None for a name that leads out of it."""
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        return None
    return directory.joinpath(*parts)


def _listed(directory: Path) -> Iterator[str]:
    """Yield the path of every file, and of every link to a directory, which is not followed."""
    for folder, below, names in os.walk(directory):
        links = [name for name in below if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield (Path(folder) / name).relative_to(directory).as_posix()


def _sources(node: Any, part: str) -> Iterator[Check | Row]:
    """Yield what there is to check of the weights that a record names, wherever they lie."""
    if isinstance(node, list):
        node = {str(place): value for place, value in enumerate(node)}
    if not isinstance(node, Mapping):
        return
    asset = node.get("asset") or (node if "wheel_sha256" in node else None)
    if isinstance(asset, Mapping):
        yield from _asset(asset, part)
        return
    if isinstance(node.get("weights"), str):
        yield from _elsewhere(node, part)
    elif isinstance(node.get("sha256"), str):
        yield Row("", "not covered", "the provenance does not say where these weights were", part)
    for key, value in node.items():
        if key not in ("files", "made_by_run"):
            yield from _sources(value, f"{part}.{key}" if part else str(key))


def _asset(record: Mapping[str, Any], part: str) -> Iterator[Check | Row]:
    name = f"{record.get('name')}-{record.get('version')}"
    place = _inside(cache_dir() / "assets", name)
    shown = f"{ASSET_PREFIX}{record.get('name')}"
    if place is None or not place.is_dir():
        yield Row(shown, "not covered", "it is not in the cache; `vita assets` fetches it", part)
        return
    own = read_object(place / RECORD) if (place / RECORD).is_file() else {}
    same = all(own.get(key) == record.get(key) for key in ("wheel_sha256", "conversion"))
    written = _digests(own.get("files") if same else None, "files", place / RECORD)
    for file, recorded in _digests(record.get("files"), f"{part}.files", place).items():
        # another version of the library that wrote it may state itself in a config, but never changes a tensor
        digest = recorded if file.endswith(".safetensors") else written.get(file, recorded)
        if (inside := _inside(place, file)) is not None:
            yield Check(f"{shown}/{file}", inside, digest, part)


def _elsewhere(node: Mapping[str, Any], part: str) -> Iterator[Check | Row]:
    """Yield the files of a local directory, if it is there, that weights were read from."""
    weights, place = node["weights"], Path(node["weights"]).expanduser()
    files = _digests(node.get("files"), f"{part}.files", place)
    if not files or not place.exists():
        revision = node.get("commit") or node.get("revision")
        pinned = f"not a local path, of revision {revision}" if revision else "there is no hash of it"
        yield Row(weights, "not covered", "it is not on this machine" if files else pinned, part)
        return
    for name, digest in files.items():
        file = place if place.is_file() else _inside(place, name)
        if file is not None:
            yield Check(str(file), file, digest, part)
