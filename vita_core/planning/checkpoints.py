"""Open a checkpoint of another project: find its layout, its files, and the stage of each tensor. No weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_core.config.schema import Config, config_from
from vita_core.errors import CheckpointError, PluginError
from vita_core.layouts.finding import FoundTower, find_tower, refuse_another
from vita_core.layouts.known import LAYOUTS, is_adapter, read_config, recognise
from vita_core.layouts.layout import Layout, OldConfig, Stage
from vita_core.layouts.parts import NON_LORA, Part, survey, unwrapped
from vita_core.planning.language import LanguagePart
from vita_core.planning.towers import ResolvedTower, resolve_tower
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import WEIGHT_FILES
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.tensorfiles import tensor_keys, tensor_shapes
from vita_core.weights.sources import Source, locate

__all__ = [
    "Checkpoint",
    "check_language",
    "check_projector",
    "check_width",
    "checkpoint_config",
    "is_checkpoint",
    "is_known",
    "is_tower",
    "open_checkpoint",
]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a known layout.

    `files` are the weight files at `source`; for a LoRA adapter, those of the `base` that it is merged into. `counts` is
    the number of tensors of each stage in them, and `projector` has the shapes of the projector's by its own keys. `notes`
    tell the user where each part comes from and what is skipped.
    """

    source: Source
    layout: Layout
    files: tuple[Path, ...]
    base: Source | None
    adapter: Path | None
    counts: Counter[Stage]
    projector: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]

    @property
    def old_config(self) -> OldConfig:
        """The checkpoint's own ``config.json``."""
        return self.source.config

    def part(self, stage: Stage) -> Part:
        """Return the files and keys that hold the tensors of a stage."""
        return Part(self.files, stage, self.layout, _trained(self.adapter))

    def language(self) -> LanguagePart:
        """Return the decoder: its config, and its tensors in this checkpoint or in the base model."""
        own, base = self.source, self.base
        part = self.part("llm")
        if base is not None and self.adapter is None:  # the base is a plain language model
            part = Part(tuple(base.files(WEIGHT_FILES)), "llm")
        return LanguagePart(self.layout.decoder(own.config), Path((base or own).weights), part, self.adapter)

    def find_tower(self, given: str | None, *, swap: bool = False) -> FoundTower:
        """Find the config and the preprocessor config of the tower. Raises CheckpointError if there are none.

        With `swap`, whoever gave another tower wants its weights: it is refused if the checkpoint's own would be loaded.
        """
        inside = self.counts["tower"] > 0
        found = find_tower(self.layout, self.source, given, whole=inside)
        if inside and swap:
            refuse_another(self.layout, self.source, found.source)
        if not inside and found.source.path is None and found.source.hub_id is None:
            raise CheckpointError(
                f"{self.source.weights} contains no tensor of its tower. Try: `--tower-weights DIR` with the tower that it "
                "was trained with"
            )
        return found


def is_checkpoint(place: str | Path) -> bool:
    """Return whether `place` is a directory with a ``config.json`` and no ``config.yaml``."""
    path = Path(place).expanduser()
    return (path / "config.json").is_file() and not (path / "config.yaml").is_file()


def is_known(place: str) -> bool:
    """Return whether `place` is the directory of a checkpoint of a known layout."""
    return is_checkpoint(place) and any(layout.recognises(read_config(place)) for layout in LAYOUTS)


def is_tower(place: str) -> bool:
    """Return whether `place` is the directory of a checkpoint of no known layout, of which a tower opens its part."""
    if not is_checkpoint(place) or is_known(place):
        return False
    source = locate(_absolute(place))
    try:
        registry().choose(None, source.config, None, source.weights)
    except PluginError:
        return False
    return True


def open_checkpoint(directory: str | Path, model_base: str | None = None) -> Checkpoint:
    """Recognise the layout of the checkpoint in `directory`, and assign its tensors to stages by their keys.

    `model_base` is the directory of the language model, for a checkpoint that contains only what was trained on top of
    it. For a LoRA adapter, it is the model that the adapter was trained on: a language model, or a whole checkpoint of the
    same layout. Raises CheckpointError if a part is missing or damaged, or if the layout is unknown.
    """
    own = _directory(directory)
    layout = recognise(own.config, own.weights)
    base = None if model_base is None else _directory(model_base)
    adapter = _adapter(own, base)
    files = tuple(_files(own if base is None or adapter is None else base, layout))
    trained = _trained(adapter)
    shapes = _shapes(files, trained)
    found = survey(layout, shapes, own.weights)
    part = Part(files, "projector", layout, trained)
    projector = {key: shape for full, shape in shapes.items() if (key := part.own_key(full)) is not None}
    notes = [f"{layout.name} checkpoint", *found.notes]
    if adapter is not None:
        notes.append(f"LoRA adapter, merged into {model_base}")
    return Checkpoint(own, layout, files, base, adapter, found.counts, projector, tuple(notes))


def check_projector(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint contains a projector."""
    counts, adapter = checkpoint.counts, checkpoint.adapter
    if not counts["projector"]:
        beside = "" if adapter is None or _trained(adapter) else f", and there is no {NON_LORA}"
        raise CheckpointError(
            f"{checkpoint.source.weights} contains no projector: 0 of its {counts.total()} tensors belong to one{beside}. Try: "
            "the directory that the training wrote, or `projector.weights: FILE` with its first training stage's file"
        )


def check_language(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint and its base together contain one language model."""
    counts, where, base, adapter = checkpoint.counts, checkpoint.source.weights, checkpoint.base, checkpoint.adapter
    if not counts["llm"] and base is None:
        raise CheckpointError(
            f"{where} contains no language model. Try: `--model-base DIR` with the language model that it was trained on"
        )
    if counts["llm"] and base is not None and adapter is None:
        raise CheckpointError(
            f"--model-base: {where} already contains a language model: {counts['llm']} tensors. Try: leave --model-base out"
        )


def check_width(checkpoint: Checkpoint, tower: ResolvedTower) -> None:
    """Raise CheckpointError if the width of the tower differs from the width in the checkpoint's config."""
    own, width = checkpoint.source, tower.geometry.hidden_size
    stated = own.config.get("mm_hidden_size")
    if stated is not None and stated != width:
        raise CheckpointError(
            f"{own.weights}: the projector takes {stated} channels (mm_hidden_size), but the tower {tower.spec.name!r} gives "
            f"{width}. Try: `--tower-weights DIR` with the tower that it was trained with"
        )


def checkpoint_config(layout: Layout, own: Source, tower: FoundTower, overrides: Sequence[str]) -> Config:
    """Return the config of a checkpoint as a `Config`. Raises VitaError for settings that a `Config` cannot express."""
    family = resolve_tower({"weights": tower.source.weights}, source=tower.source)
    data = layout.sections(own.config, family.shape.image_size[0])
    for name, section in layout.file_sections(own).items():
        data[name] = {**data.get(name, {}), **section}
    data["tower"]["weights"] = tower.source.weights
    data["llm"]["weights"] = own.weights
    return config_from(data, overrides, own.weights)


def _shapes(files: Sequence[Path], trained: Path | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the files by its key. Those that were trained beside an adapter replace them."""
    own = [] if trained is None else [trained]
    return dict(tensor_shapes(files)) | {unwrapped(key): shape for key, shape in tensor_shapes(own)}


def _trained(adapter: Path | None) -> Path | None:
    return adapter / NON_LORA if adapter is not None and (adapter / NON_LORA).is_file() else None


def _directory(directory: str | Path) -> Source:
    read_config(directory)
    return locate(_absolute(directory))


def _absolute(directory: str | Path) -> str:
    return str(Path(directory).expanduser().absolute())


def _files(own: Source, layout: Layout) -> list[Path]:
    """Return the weight files, with the projector's own file if the others contain no projector, or if it is the only one."""
    assert own.path is not None
    if is_adapter(own.path):
        raise CheckpointError(
            f"--model-base: a LoRA adapter itself: {own.path}. Try: the directory of the model that the adapter was trained on"
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
    """Return the directory of the LoRA adapter, or None if `own` is not one. Raises CheckpointError without a `base`."""
    assert own.path is not None
    if not is_adapter(own.path):
        return None
    if base is None:
        stated = read_object(own.path / "adapter_config.json").get("base_model_name_or_path")
        named = f"; its adapter_config.json names {stated!r}" if stated else ""
        raise CheckpointError(
            f"{own.weights} contains a LoRA adapter, which needs the model that it was trained on{named}. Try: "
            "`--model-base DIR` (model_base=DIR in Python)"
        )
    return own.path
