"""A directory of another project -> our config, and whose each tensor is. Nothing is built here; no weight is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vita_core.config.schema import Config, config_from
from vita_core.errors import CheckpointError
from vita_core.language.llm import LanguagePart
from vita_core.layouts.finding import FoundTower, find_tower
from vita_core.layouts.known import LAYOUTS, is_adapter, read_config, recognise
from vita_core.layouts.layout import Layout, OldConfig, Stage
from vita_core.loading import Tensors, read_tensors
from vita_core.models.overlays import NON_LORA, overlaid
from vita_core.models.stage_tensors import stage_tensors, survey
from vita_core.planning.resolution import ResolvedTower, resolve_tower
from vita_core.plugins.specs import WEIGHT_FILES
from vita_core.weights.sources import Source, locate, read_json

__all__ = ["Opened", "is_checkpoint", "is_known", "open_checkpoint"]


@dataclass(frozen=True)
class Opened:
    """A checkpoint that was recognised. `notes` tell what was taken from where and what was skipped.

    `files` are the weight files at `source`; of an adapter, those of the `base` it is merged into. `tensors(stage)` reads a
    stage's tensors, memory-mapped, under the stage's own keys.
    """

    config: Config
    source: Source
    files: tuple[Path, ...]
    base: Source | None
    layout: Layout
    tower: ResolvedTower
    language: LanguagePart
    tensors: Callable[[Stage], Tensors]
    notes: tuple[str, ...]

    @property
    def old_config(self) -> OldConfig:
        """The checkpoint's own ``config.json``."""
        return self.source.config


def is_checkpoint(place: str | Path) -> bool:
    """Whether `place` is a directory that holds a model's ``config.json`` and no config of ours."""
    path = Path(place).expanduser()
    return (path / "config.json").is_file() and not (path / "config.yaml").is_file()


def is_known(place: str) -> bool:
    """Whether `place` is the directory of a checkpoint that one of the layouts recognises."""
    return is_checkpoint(place) and any(layout.recognises(read_config(place)) for layout in LAYOUTS)


def open_checkpoint(
    directory: str | Path,
    *,
    tower_weights: str | None = None,
    model_base: str | None = None,
    overrides: Sequence[str] = (),
    max_tiles: int | None = None,
    config: Config | None = None,
) -> Opened:
    """Recognise `directory`, find its tower and settle its config; `overrides` are as in `load_config`.

    `config` is taken instead of the checkpoint's own, `config.tower.weights` as `tower_weights` (``vita migrate``).
    `model_base`: the directory of the language model, where the checkpoint holds only what was trained on top of it; of a
    LoRA adapter, what it was trained on (a language model, or a whole checkpoint of the same layout).
    Raises CheckpointError for what is missing, damaged or of an unknown layout.
    """
    own = _directory(directory)
    where = own.weights
    layout = recognise(own.config, where)
    base = None if model_base is None else _directory(model_base)
    adapter = _adapter(own, base)
    files = _files(own if base is None or adapter is None else base, layout)
    every = partial(read_tensors, files) if adapter is None else partial(overlaid, files, adapter)
    found = survey(layout, every(), where)
    _check_stages(found.counts, where, base, adapter)
    inside = found.counts["tower"] > 0
    tower_weights = tower_weights if config is None else config.tower.weights
    tower = find_tower(layout, own, tower_weights, whole=inside)
    if not inside and tower.source.path is None and tower.source.hub_id is None:
        raise CheckpointError(f"{where} holds no tensor of its tower; pass --tower-weights DIR with the base tower")
    config = _config(layout, own, tower, overrides) if config is None else config
    config = config if max_tiles is None else config.model_copy(update={"images": config.images.at_most(max_tiles)})
    resolved = resolve_tower(config.tower, source=tower.source)
    _check_width(own, resolved)
    taken = "config from" if inside else "weights from"
    notes = [f"{layout.name} checkpoint; tower {resolved.spec.name!r}, its {taken} {tower.how}", *found.notes]
    if adapter is not None:
        notes.append(f"LoRA adapter, merged into {model_base}")

    def read(stage: Stage) -> Tensors:
        return stage_tensors(layout, every(), stage)

    if inside:
        notes.append(f"tower weights: {found.counts['tower']} tensors of the checkpoint itself")
        resolved = replace(resolved, source=replace(resolved.source, weights=where), tensors=partial(read, "tower"))
    language = LanguagePart(layout.decoder(own.config), Path((base or own).weights), partial(read, "llm"), adapter)
    if base is not None and adapter is None:
        language = replace(language, tensors=lambda: read_tensors(base.files(WEIGHT_FILES)))
    return Opened(config, own, tuple(files), base, layout, resolved, language, read, tuple(notes))


def _directory(directory: str | Path) -> Source:
    read_config(directory)
    return locate(str(Path(directory).expanduser().absolute()))


def _files(own: Source, layout: Layout) -> list[Path]:
    """The weight files, and the projector's own where that is needed; it may be all there is (the rest is a `model_base`)."""
    assert own.path is not None
    if is_adapter(own.path):
        raise CheckpointError(f"--model-base {own.path} is a LoRA adapter itself; give what that was trained on")
    beside = [own.path / layout.projector_file] if layout.projector_file else []
    beside = [file for file in beside if file.is_file()]
    if beside and not any((own.path / pattern).is_file() for pattern in WEIGHT_FILES):
        return beside
    files = own.files(WEIGHT_FILES)
    if beside and not survey(layout, read_tensors(files), own.weights).counts["projector"]:
        return [*files, *beside]
    return files


def _check_stages(counts: Any, where: str, base: Source | None, adapter: Path | None) -> None:
    if not counts["projector"]:
        beside = "" if adapter is None or (adapter / NON_LORA).is_file() else f" (there is no {NON_LORA} in it either)"
        raise CheckpointError(f"{where} holds no projector: 0 of its {counts.total()} tensors are one's{beside}")
    if not counts["llm"] and base is None:
        raise CheckpointError(f"{where} holds no language model; pass --model-base DIR, the one it was trained on")
    if counts["llm"] and base is not None and adapter is None:
        raise CheckpointError(
            f"{where} holds a language model of its own ({counts['llm']} tensors); leave --model-base out"
        )


def _config(layout: Layout, own: Source, tower: FoundTower, overrides: Sequence[str]) -> Config:
    side = resolve_tower({"weights": tower.source.weights}, source=tower.source).shape.image_size[0]
    data = layout.sections(own.config, side)
    data["tower"]["weights"] = tower.source.weights
    data["llm"]["weights"] = own.weights
    return config_from(data, overrides, own.weights)


def _check_width(own: Source, resolved: ResolvedTower) -> None:
    stated, width = own.config.get("mm_hidden_size"), resolved.geometry.hidden_size
    if stated is not None and stated != width:
        raise CheckpointError(
            f"{own.weights}: its projector takes {stated} channels (mm_hidden_size), but the tower "
            f"{resolved.spec.name!r} gives {width}; pass the tower it was trained with as --tower-weights"
        )


def _adapter(own: Source, base: Source | None) -> Path | None:
    """The directory of the LoRA adapter that `own` is, or None. Raises CheckpointError where it has no `base`."""
    assert own.path is not None
    if not is_adapter(own.path):
        return None
    if base is None:
        stated = read_json(own.path / "adapter_config.json").get("base_model_name_or_path")
        trained = f" (its adapter_config.json says {stated!r})" if stated else ""
        raise CheckpointError(
            f"{own.weights} holds a LoRA adapter; pass --model-base DIR (model_base=... in Python), what it was trained "
            f"on{trained}"
        )
    return own.path
