"""A model written back as a checkpoint of the project it came from: its source's keys and files, its own values."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
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
from vita_core.weights.files import write_text, write_whole

__all__ = ["Exported", "export_model", "source_of"]

TEXT_FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "chat_template*",
)  # fmt: skip
"""What is copied beside the weights: the files that transformers reads."""
STATED = ("select_layer", "select_feature", "norm", "feature_scale", "s2", "pixel_shuffle", "pool", "options")
"""Settings of a tower that a checkpoint's values depend on."""


@dataclass(frozen=True)
class Exported:
    """What was written. Of the source's tensors, `unchanged` have its value, `changed` the model's; `copied` (blocks that
    were not loaded) and `audio` are the source's, or `audio_skipped` left out. `notes` are for the user to read."""

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
        """Plain data, as ``vita export --json`` prints it."""
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
    """Write the model into `directory`, which must not exist, in the layout of the checkpoint `source` that it came from.

    Every key of the source is written, in the source's dtype: with the model's value where the model holds it and it
    differs, else with the source's. Audio tensors are left out unless `audio`. It appears whole or not at all. Raises
    VitaError when something stands at `directory` or the disk refuses; CheckpointError when the source holds no whole
    model, or the model is not one that its ``config.json`` describes.
    """
    directory = directory.expanduser().absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise VitaError(f"{directory} is there already; move it away or choose another name")
    _check_settings(resolved, tower, source)
    assert source.checkpoint is not None
    values = ModelValues(tower, projector, llm, source.checkpoint.source.weights)
    _check_tower_outside(values, source)
    writer = _Writer(values, source.checkpoint, audio)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()  # inside, so that it has the usual permissions
            exported = writer.write(made, directory)
            made.rename(directory)
    except OSError as error:
        raise VitaError(f"cannot write {directory}: {error}") from error
    return exported


def source_of(resolved: Resolved, given: str | None) -> Resolved:
    """The whole VITA checkpoint that a model came from, as its own config.json describes it: `given`, or what the model
    was `resolved` from.

    Raises CheckpointError where there is none.
    """
    checkpoint = resolved.checkpoint
    if given is None and checkpoint is None:
        raise CheckpointError(
            "this model was not opened from a VITA checkpoint, whose keys and audio half an export needs. Try: "
            "`vita export DIR --source DIR` (in Python `source=DIR`) with that checkpoint"
        )
    if given is None and checkpoint is not None:
        given = checkpoint.source.weights
        if checkpoint.base is not None:
            raise CheckpointError(
                f"{given} is no whole checkpoint: it was opened on {checkpoint.base.weights}. Try: `vita export DIR --source "
                "DIR` (in Python `source=DIR`) with the whole VITA checkpoint whose layout is wanted"
            )
    source = resolve(str(given), tower_weights=resolved.config.tower.weights)
    assert source.checkpoint is not None
    if source.checkpoint.layout.name != "VITA":
        raise CheckpointError(
            f"{given} is in {source.checkpoint.layout.name}'s layout, and only VITA's can be written. Try: model.save(DIR)"
        )
    return source


def _check_settings(resolved: Resolved, tower: BaseVisionTower, source: Resolved) -> None:
    """The layout's config has no place for other settings, so the model must be what the source's config describes."""
    theirs, settings, stated = source.tower.settings, resolved.config.projector, source.config.projector
    pairs = {f"tower.{key}": (getattr(tower.settings, key), getattr(theirs, key)) for key in STATED}
    pairs["tower.type"] = (tower.resolved.spec.name, source.tower.spec.name)
    pairs["projector.type"] = (settings.type, stated.type)
    pairs["projector.options"] = (settings.options, stated.options)
    wrong = [f"{key} is {ours!r}, there {other!r}" for key, (ours, other) in pairs.items() if ours != other]
    if wrong:
        raise CheckpointError(
            f"this model differs from what the config.json of {source.name} describes, so that layout cannot hold it: "
            f"{'; '.join(wrong)}. Try: model.save(DIR)"
        )


def _check_tower_outside(values: ModelValues, source: Resolved) -> None:
    """A checkpoint that leaves its tower outside has no place for one that was trained on."""
    if source.tower.part is not None:
        return
    files = source.tower.source.files(source.tower.spec.weight_files)
    changed = sum(values.compared("tower", key, read())[0] is False for key, read in read_tensors(files))
    if changed:
        raise CheckpointError(
            f"{source.name} leaves its tower outside, in {source.tower.source.weights}, so that layout has no place for the "
            f"{changed} tensors of the tower that were changed. Try: model.save(DIR)"
        )


class _Writer:
    def __init__(self, values: ModelValues, source: Checkpoint, audio: bool) -> None:
        self.values, self.source, self.audio = values, source, audio
        self.counts: Counter[str] = Counter()

    def write(self, made: Path, final: Path) -> Exported:
        """All files into `made`, which will be `final`."""
        index: dict[str, str] = {}
        files, place = self.source.files, self.source.source.weights
        with tqdm(total=sum(1 for _ in read_tensors(files)), desc="export", unit="tensor", disable=None) as bar:
            for file in files:
                state = dict(self._tensors(file, bar))
                if state:  # else it is a shard of audio alone
                    index |= dict.fromkeys(state, _write_tensors(made, file, state))
        if left := list(self.values.left()):
            raise CheckpointError(
                f"{place} has no place for {len(left)} of the model's tensors ({', '.join(left[:3])}), so it cannot be "
                "written in that layout; save it with model.save(DIR) instead"
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
            assert rule is not None  # opening it refused unknown keys
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
        """Config and tokenizer. A tower beside the source is named by its absolute path where it is not beside the copy."""
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
        return names, [f"config.json: {key} {stated!r} was relative to the source and is now {str(found)!r}"]


def _write_tensors(made: Path, file: Path, state: dict[str, Tensor]) -> str:
    """Write what stands in the place of the source's `file`; returns its name. Pickles become safetensors, under the name
    that transformers looks for, but for the projector's own, which LLaVA's code reads."""
    name = file.name
    if not name.startswith("pytorch_model"):
        save = partial(torch.save, state) if name.endswith(".bin") else partial(_save, state)
        write_whole(made / name, save)
        return name
    name = f"model{name.removeprefix('pytorch_model').removesuffix('.bin')}.safetensors"
    unshared: dict[int, Tensor] = {}
    for key, tensor in state.items():  # a pickle may hold one tensor under two keys, safetensors may not
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
