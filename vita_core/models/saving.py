"""Save a model to a directory with its weights, its config and a record of its sources."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vita_core.adapters import merged
from vita_core.errors import CheckpointError, VitaError
from vita_core.language.llm import LanguageModel
from vita_core.masking import masked_data
from vita_core.models.provenance import made_by, sources
from vita_core.models.saving_towers import REDUCTIONS
from vita_core.models.writing import write_model
from vita_core.planning.resolution import Resolved
from vita_core.towers.tower import BaseVisionTower
from vita_core.untrusted.jsonfiles import read_object
from vita_core.weights.files import hashes, sha256, whole_directory

__all__ = ["is_saved", "save_model", "saved_from"]

FORMAT = "vita-core model"
"""The value of ``format`` in the ``provenance.json`` of a saved model."""
CONTENT = {
    "config.yaml", "provenance.json", "tower", "projector.safetensors", "projector-adapter", "newline.safetensors", "llm",
    "llm-adapter",
}  # fmt: skip


def save_model(
    directory: Path,
    resolved: Resolved,
    tower: BaseVisionTower,
    projector: nn.Module,
    llm: LanguageModel,
    newline: Tensor | None = None,
    *,
    merge_adapters: bool = False,
) -> None:
    """Write ``config.yaml``, ``provenance.json``, ``tower/``, ``projector.safetensors`` and ``llm/`` to `directory`.

    Each reduction that learns gets a file ``reduce-0.safetensors``, by its place in ``tower.reduce``, and LLaVA-1.6's
    ``image_newline`` gets ``newline.safetensors``. The provenance names the sources of the model, which `resolved` has.
    With `merge_adapters`, LoRA adapters are added to the weights, so that no adapter is written and peft is not needed to
    open the model; its values then differ by rounding. The directory appears only when it is complete. It replaces a model
    that was saved earlier, but nothing else.

    Raises VitaError if `directory` contains something else or cannot be written, or if the tower is not loaded. Raises
    CheckpointError if the tower's key rules would change its own keys when the model is opened again.
    """
    directory = directory.expanduser().absolute()
    _check_target(directory)
    parts = (tower.encoder, projector, llm.model) if merge_adapters else ()
    with whole_directory(directory) as made, merged(*parts):
        _write(made, resolved, tower, projector, llm, newline)


def is_saved(directory: Path) -> bool:
    """Return whether `save_model` wrote `directory`."""
    record = directory / "provenance.json"
    return record.is_file() and read_object(record).get("format") == FORMAT


def _check_target(directory: Path) -> None:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    names = {entry.name for entry in directory.iterdir()} if directory.is_dir() else {directory.name}
    unknown = names - CONTENT - {name for name in names if fnmatch.fnmatch(name, REDUCTIONS)}
    if not unknown and is_saved(directory):
        return
    other = ", ".join(sorted(unknown)[:3])
    raise VitaError(
        f"{directory} is not a saved model that could be replaced{f': it contains {other}' if other else ''}. "
        "Try: another directory"
    )


def _write(
    made: Path,
    resolved: Resolved,
    tower: BaseVisionTower,
    projector: nn.Module,
    llm: LanguageModel,
    newline: Tensor | None,
) -> None:
    write_model(made, resolved, tower, projector, llm, newline)
    record: dict[str, Any] = {
        "format": FORMAT,
        "made_by": made_by(resolved),
        "sources": sources(resolved),
    }
    record["files"] = hashes(made)
    (made / "provenance.json").write_text(
        json.dumps(masked_data(record), indent=2, ensure_ascii=False), encoding="utf-8"
    )


def saved_from(directory: Path, moved: Path | None = None) -> Path:
    """Return the checkpoint of another project from which the model in `directory` was opened.

    `moved` is its directory if it was moved. Raises CheckpointError if there was no such checkpoint, if its directory does
    not exist, or if its files have changed.
    """
    record = read_object(directory / "provenance.json").get("sources", {}).get("checkpoint")
    if record is None:
        raise CheckpointError(
            f"{directory} was not saved from a VITA or LLaVA checkpoint, so there is no layout to export it to. "
            "Try: a model that was opened from a VITA checkpoint"
        )
    place = Path(record["weights"]) if moved is None else moved.expanduser()
    if not place.is_dir():
        raise CheckpointError(
            f"{directory} was saved from a checkpoint that does not exist: {place}. "
            "Try: `--source DIR` with its new directory"
        )
    for name, digest in record["files"].items():
        if not (place / name).is_file() or sha256(place / name) != digest:
            raise CheckpointError(
                f"{directory} was saved from another checkpoint than {place}: its provenance.json says that {name} has the "
                f"SHA-256 {digest}. Try: `--source DIR` with the checkpoint that it was saved from"
            )
    return place
