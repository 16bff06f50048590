"""Export a model to the checkpoint layout that it was opened from: the keys and files of the source, the model's values."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from vita_core.errors import CheckpointError, VitaError
from vita_core.language.llm import LanguageModel
from vita_core.layouts.parts import rule_of
from vita_core.layouts.sections import tower_name
from vita_core.loading import read_tensors
from vita_core.models.model_values import ModelValues
from vita_core.planning.checkpoints import Checkpoint
from vita_core.planning.resolution import Resolved, resolve
from vita_core.towers.tower import BaseVisionTower
from vita_core.weights.files import whole_directory, write_text, write_whole

__all__ = ["Exported", "export_model", "source_of"]

TEXT_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "chat_template*",
)  # fmt: skip
"""The files that are copied besides the weights: those that transformers reads."""
STATED = ("select_layer", "select_feature", "norm", "feature_scale", "s2", "pixel_shuffle", "pool", "reduce", "options")
"""Tower keys that must be the same in the model and in the source, because the layout's config has no place for others."""


@dataclass(frozen=True)
class Exported:
    """The files of an export, the numbers of their tensors, and `notes` for the user.

    `unchanged` tensors are equal in source and model, `changed` ones have the model's value. `copied` ones (blocks that the
    model did not load) and `audio` ones have the source's value. `audio_skipped` ones are left out.
    """

    out: str
    source: str
    layout: str
    weights: list[str]
    files: list[str]
    unchanged: int
    changed: int
    copied: int
    audio: int
    audio_skipped: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``vita export --json`` prints it."""
        return asdict(self)


def export_model(
    directory: Path,
    resolved: Resolved,
    tower: BaseVisionTower,
    projector: nn.Module,
    llm: LanguageModel,
    source: Resolved,
    *,
    audio: bool = False,
) -> Exported:
    """Write the model to the new directory `directory`, in the layout of the checkpoint `source` that it came from.

    Every key of the source is written in its dtype, with the model's value if the model has the tensor and its value
    differs, else with the source's. Audio tensors are left out unless `audio` is true. The directory appears only when it
    is complete. Raises VitaError if `directory` exists or cannot be written, and CheckpointError if the source has no
    complete model, or if its ``config.json`` describes another model.
    """
    directory = directory.expanduser().absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise VitaError(f"already exists: {directory}. Try: another directory, or move this one away")
    _check_settings(resolved, tower, source)
    assert source.checkpoint is not None
    values = ModelValues(tower, projector, llm, source.checkpoint.source.weights)
    _check_tower_outside(values, source)
    writer = _Writer(values, source.checkpoint, audio)
    with whole_directory(directory) as made:
        exported = writer.write(made, directory)
    return exported  # noqa: RET504  # for mypy, a context manager might swallow the error


def source_of(resolved: Resolved, given: str | None) -> Resolved:
    """Resolve the VITA checkpoint that a model came from: `given`, or that of `resolved`. Raises CheckpointError."""
    checkpoint = resolved.checkpoint
    if given is None and checkpoint is None:
        raise CheckpointError(
            "this model was not opened from a VITA checkpoint, and an export copies the keys and audio tensors of one. Try: "
            "`vita export DIR --source DIR` (source=DIR in Python) with that checkpoint"
        )
    if given is None and checkpoint is not None:
        given = checkpoint.source.weights
        if checkpoint.base is not None:
            raise CheckpointError(
                f"{given} is not a whole checkpoint: it was opened on the base {checkpoint.base.weights}. Try: "
                "`vita export DIR --source DIR` (source=DIR in Python) with a whole VITA checkpoint"
            )
    source = resolve(str(given), tower_weights=resolved.config.tower.weights)
    assert source.checkpoint is not None
    if source.checkpoint.layout.name != "VITA":
        raise CheckpointError(
            f"{given} has the layout {source.checkpoint.layout.name}, and only VITA's can be written. Try: model.save(DIR)"
        )
    return source


def _check_settings(resolved: Resolved, tower: BaseVisionTower, source: Resolved) -> None:
    """Raise CheckpointError unless the source's config describes the model: the layout has no place for other settings."""
    settings, stated = resolved.config.projector, source.config.projector
    ours, theirs = (section.model_dump(exclude_none=True) for section in (tower.settings, source.tower.settings))
    pairs = {f"tower.{key}": (ours.get(key), theirs.get(key)) for key in STATED}
    pairs["tower.type"] = (tower.resolved.spec.name, source.tower.spec.name)
    pairs |= {f"projector.{key}": (getattr(settings, key), getattr(stated, key)) for key in ("type", "options")}
    wrong = [f"{key} is {own!r} instead of {other!r}" for key, (own, other) in pairs.items() if own != other]
    if wrong:
        raise CheckpointError(
            f"the layout of {source.name} cannot describe this model, whose settings differ from its config.json: "
            f"{'; '.join(wrong)}. Try: model.save(DIR)"
        )


def _check_tower_outside(values: ModelValues, source: Resolved) -> None:
    """Raise CheckpointError if the tower was trained, but the source does not contain its tower."""
    if source.tower.part is not None:
        return
    files = source.tower.source.files(source.tower.spec.weight_files)
    changed = sum(values.compared("tower", key, read())[0] is False for key, read in read_tensors(files))
    if changed:
        raise CheckpointError(
            f"{source.name} does not contain its tower, which is in {source.tower.source.weights}, so its layout has no place "
            f"for the changed tensors of the tower: {changed}. Try: model.save(DIR)"
        )


class _Writer:
    def __init__(self, values: ModelValues, source: Checkpoint, audio: bool) -> None:
        self.values, self.source, self.audio = values, source, audio
        self.counts: Counter[str] = Counter()

    def write(self, made: Path, final: Path) -> Exported:
        """Write all files to the directory `made`, which is later renamed to `final`."""
        index: dict[str, str] = {}
        files, place = self.source.files, self.source.source.weights
        with tqdm(total=sum(1 for _ in read_tensors(files)), desc="export", unit="tensor", disable=None) as bar:
            for file in files:
                state = dict(self._tensors(file, bar))
                if state:  # a shard that only has audio tensors is left out
                    index |= dict.fromkeys(state, _write_tensors(made, file, state))
        if left := list(self.values.left()):
            raise CheckpointError(
                f"the layout of {place} has no place for {len(left)} of the model's tensors: {', '.join(left[:3])}. "
                "Try: model.save(DIR)"
            )
        weights = list(dict.fromkeys(index.values()))
        if "model.safetensors" not in weights:
            _write_index(made, {key: name for key, name in index.items() if name.endswith(".safetensors")})
        copied, notes = self._copy(made, final)
        counts = {key: self.counts[key] for key in ("unchanged", "changed", "copied", "audio", "audio_skipped")}
        return Exported(str(final), place, self.source.layout.name, weights, copied, **counts, notes=notes)

    def _tensors(self, file: Path, bar: Any) -> Iterator[tuple[str, Tensor]]:
        for key, read in read_tensors([file]):
            bar.update()
            rule = rule_of(self.source.layout, key)
            assert rule is not None  # unknown keys raised an error when the checkpoint was opened
            if rule.audio and not self.audio:
                self.counts["audio_skipped"] += 1
                continue
            same, tensor = None, read()
            if rule.stage is not None:
                same, tensor = self.values.compared(rule.stage, rule.own_key(key), tensor)
            elsewhere = "audio" if rule.audio else "copied"
            self.counts[elsewhere if same is None else "unchanged" if same else "changed"] += 1
            yield key, tensor

    def _copy(self, made: Path, final: Path) -> tuple[list[str], list[str]]:
        """Copy config and tokenizer. Make a relative path to the tower absolute if it is wrong in the new directory."""
        place = self.source.source.path
        assert place is not None
        names = sorted(
            file.name
            for file in place.iterdir()
            if file.is_file() and any(fnmatch.fnmatch(file.name, pattern) for pattern in TEXT_FILES)
        )
        for name in names:
            shutil.copyfile(place / name, made / name)
        config = dict(self.source.old_config)
        stated = tower_name(config)
        if stated is None or Path(stated).is_absolute() or not (place / stated).is_dir():
            return names, []
        found = (place / stated).resolve()
        if (final / stated).resolve() == found:
            return names, []
        key = "mm_vision_tower" if config.get("mm_vision_tower") else "vision_tower"
        config[key] = str(found)
        (made / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        return names, [f"config.json: {key} {stated!r} was relative to the source, and is now {str(found)!r}"]


def _write_tensors(made: Path, file: Path, state: dict[str, Tensor]) -> str:
    """Write the file that replaces the source's `file`, and return its name. Pickles become safetensors files.

    Only the projector's own file stays a pickle, because the code of LLaVA reads it as one.
    """
    name = file.name
    if not name.startswith("pytorch_model"):
        save = partial(torch.save, state) if name.endswith(".bin") else partial(_save, state)
        write_whole(made / name, save)
        return name
    name = f"model{name.removeprefix('pytorch_model').removesuffix('.bin')}.safetensors"
    unshared: dict[int, Tensor] = {}
    for key, tensor in state.items():  # two keys of a pickle can share one tensor, but not in safetensors
        state[key] = tensor.clone() if tensor.data_ptr() in unshared else tensor
        unshared[tensor.data_ptr()] = tensor
    write_whole(made / name, partial(_save, state))
    return name


def _save(state: dict[str, Tensor], path: Path) -> None:
    save_file(state, path, metadata={"format": "pt"})


def _write_index(made: Path, weight_map: dict[str, str]) -> None:
    size = sum((made / name).stat().st_size for name in set(weight_map.values()))
    content = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_text(made / "model.safetensors.index.json", json.dumps(content, indent=2))
