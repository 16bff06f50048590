"""A checkpoint of another project: which layout it has, which files, and whose each tensor is. No weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_core.config.schema import Config, config_from
from vita_core.errors import CheckpointError
from vita_core.layouts.finding import FoundTower, find_tower
from vita_core.layouts.known import LAYOUTS, is_adapter, read_config, recognise
from vita_core.layouts.layout import Layout, OldConfig, Stage
from vita_core.layouts.parts import NON_LORA, Part, survey, unwrapped
from vita_core.planning.language import LanguagePart
from vita_core.planning.towers import ResolvedTower, resolve_tower
from vita_core.plugins.specs import WEIGHT_FILES
from vita_core.weights.sources import Source, locate, read_json
from vita_core.weights.tensorfiles import tensor_keys

__all__ = [
    "Checkpoint",
    "check_stages",
    "check_width",
    "checkpoint_config",
    "is_checkpoint",
    "is_known",
    "open_checkpoint",
]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was recognised.

    `files` are the weight files at `source`; of an adapter, those of the `base` that it is merged into. `counts` is how
    many tensors each stage has in them, `notes` say what was taken from where and what is skipped.
    """

    source: Source
    layout: Layout
    files: tuple[Path, ...]
    base: Source | None
    adapter: Path | None
    counts: Counter[Stage]
    notes: tuple[str, ...]

    @property
    def old_config(self) -> OldConfig:
        """The checkpoint's own ``config.json``."""
        return self.source.config

    def part(self, stage: Stage) -> Part:
        """Where the tensors of a stage are."""
        return Part(self.files, stage, self.layout, _trained(self.adapter))

    def language(self) -> LanguagePart:
        """The decoder: its config, and its tensors here or in the base model."""
        own, base = self.source, self.base
        part = self.part("llm")
        if base is not None and self.adapter is None:  # the base is a plain language model
            part = Part(tuple(base.files(WEIGHT_FILES)), "llm")
        return LanguagePart(self.layout.decoder(own.config), Path((base or own).weights), part, self.adapter)

    def find_tower(self, given: str | None) -> FoundTower:
        """Where the tower's config and preprocessing are, and how they were found. Raises CheckpointError."""
        inside = self.counts["tower"] > 0
        found = find_tower(self.layout, self.source, given, whole=inside)
        if not inside and found.source.path is None and found.source.hub_id is None:
            raise CheckpointError(
                f"{self.source.weights} holds no tensor of its tower. Try: `--tower-weights DIR` with the base tower"
            )
        return found


def is_checkpoint(place: str | Path) -> bool:
    """Whether `place` is a directory that holds a model's ``config.json`` and no config of ours."""
    path = Path(place).expanduser()
    return (path / "config.json").is_file() and not (path / "config.yaml").is_file()


def is_known(place: str) -> bool:
    """Whether `place` is the directory of a checkpoint that one of the layouts recognises."""
    return is_checkpoint(place) and any(layout.recognises(read_config(place)) for layout in LAYOUTS)


def open_checkpoint(directory: str | Path, model_base: str | None = None) -> Checkpoint:
    """Recognise the checkpoint in `directory` and sort its tensors, by their keys alone.

    `model_base`: the directory of the language model, where the checkpoint holds only what was trained on top of it; of a
    LoRA adapter, what it was trained on (a language model, or a whole checkpoint of the same layout).
    Raises CheckpointError for what is missing, damaged or of an unknown layout.
    """
    own = _directory(directory)
    layout = recognise(own.config, own.weights)
    base = None if model_base is None else _directory(model_base)
    adapter = _adapter(own, base)
    files = tuple(_files(own if base is None or adapter is None else base, layout))
    trained = _trained(adapter)
    found = survey(layout, _keys(files, trained), own.weights)
    notes = [f"{layout.name} checkpoint", *found.notes]
    if adapter is not None:
        notes.append(f"LoRA adapter, merged into {model_base}")
    return Checkpoint(own, layout, files, base, adapter, found.counts, tuple(notes))


def check_stages(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint and its base together hold a projector and one language model."""
    counts, where, base, adapter = checkpoint.counts, checkpoint.source.weights, checkpoint.base, checkpoint.adapter
    if not counts["projector"]:
        beside = "" if adapter is None or _trained(adapter) else f", and there is no {NON_LORA} in it either"
        raise CheckpointError(
            f"{where} holds no projector: 0 of its {counts.total()} tensors are one's{beside}. Try: the directory that "
            "the training wrote"
        )
    if not counts["llm"] and base is None:
        raise CheckpointError(
            f"{where} holds no language model. Try: `--model-base DIR` with the one it was trained on"
        )
    if counts["llm"] and base is not None and adapter is None:
        raise CheckpointError(
            f"{where} holds a language model of its own: {counts['llm']} tensors. Try: leave --model-base out"
        )


def check_width(checkpoint: Checkpoint, tower: ResolvedTower) -> None:
    """Raise CheckpointError where the tower's width is not the one that the checkpoint's config states."""
    own, width = checkpoint.source, tower.geometry.hidden_size
    stated = own.config.get("mm_hidden_size")
    if stated is not None and stated != width:
        raise CheckpointError(
            f"{own.weights}: its projector takes {stated} channels (mm_hidden_size), but the tower {tower.spec.name!r} gives "
            f"{width}. Try: `--tower-weights DIR` with the tower that it was trained with"
        )


def checkpoint_config(layout: Layout, own: Source, tower: FoundTower, overrides: Sequence[str]) -> Config:
    """The config of a checkpoint in our sections. Raises VitaError for one that no section can say."""
    family = resolve_tower({"weights": tower.source.weights}, source=tower.source)
    data = layout.sections(own.config, family.shape.image_size[0])
    data["tower"]["weights"] = tower.source.weights
    data["llm"]["weights"] = own.weights
    return config_from(data, overrides, own.weights)


def _keys(files: Sequence[Path], trained: Path | None) -> Iterable[str]:
    """Every key of the files, and of what was trained beside an adapter, once each."""
    keys = dict.fromkeys(tensor_keys(files))
    return keys if trained is None else keys | dict.fromkeys(map(unwrapped, tensor_keys([trained])))


def _trained(adapter: Path | None) -> Path | None:
    return adapter / NON_LORA if adapter is not None and (adapter / NON_LORA).is_file() else None


def _directory(directory: str | Path) -> Source:
    read_config(directory)
    return locate(str(Path(directory).expanduser().absolute()))


def _files(own: Source, layout: Layout) -> list[Path]:
    """The weight files, and the projector's own where that is needed; it may be all there is (the rest is a `model_base`)."""
    assert own.path is not None
    if is_adapter(own.path):
        raise CheckpointError(
            f"--model-base {own.path} is a LoRA adapter itself. Try: the model that the adapter was trained on"
        )
    beside = [own.path / layout.projector_file] if layout.projector_file else []
    beside = [file for file in beside if file.is_file()]
    if beside and not any((own.path / pattern).is_file() for pattern in WEIGHT_FILES):
        return beside
    files = own.files(WEIGHT_FILES)
    if beside and not survey(layout, tensor_keys(files), own.weights).counts["projector"]:
        return [*files, *beside]
    return files


def _adapter(own: Source, base: Source | None) -> Path | None:
    """The directory of the LoRA adapter that `own` is, or None. Raises CheckpointError where it has no `base`."""
    assert own.path is not None
    if not is_adapter(own.path):
        return None
    if base is None:
        stated = read_json(own.path / "adapter_config.json").get("base_model_name_or_path")
        trained = f" (its adapter_config.json says {stated!r})" if stated else ""
        raise CheckpointError(
            f"{own.weights} holds a LoRA adapter, which needs the model that it was trained on{trained}. Try: "
            "`--model-base DIR` (in Python `model_base=DIR`)"
        )
    return own.path
