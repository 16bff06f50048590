"""A directory of another project -> our config, and whose each tensor is. Nothing is built here; no weight is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vita_core.checkpoints import Tensors, read_tensors
from vita_core.config import Config, config_from
from vita_core.errors import CheckpointError
from vita_core.layouts.finding import FoundTower, find_tower
from vita_core.layouts.known import LAYOUTS, read_config, recognise
from vita_core.layouts.layout import Layout, OldConfig, Stage
from vita_core.layouts.tensors import stage_tensors, survey
from vita_core.llm import LanguagePart
from vita_core.resolution import ResolvedTower, resolve_tower
from vita_core.sources import Source, locate
from vita_core.specs import WEIGHT_FILES

__all__ = ["Opened", "is_checkpoint", "is_known", "open_checkpoint"]


@dataclass(frozen=True)
class Opened:
    """A checkpoint that was recognised. `notes` tell what was taken from where and what was skipped.

    `tensors(stage)` reads a stage's tensors, memory-mapped, under the stage's own keys.
    """

    config: Config
    old_config: OldConfig
    layout: Layout
    tower: ResolvedTower
    language: LanguagePart
    tensors: Callable[[Stage], Tensors]
    notes: tuple[str, ...]


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
    `model_base`: the directory of the language model, where the checkpoint holds only what was trained on top of it.
    Raises CheckpointError for what is missing, damaged or of an unknown layout.
    """
    own = _directory(directory)
    where = own.weights
    layout = recognise(own.config, where)
    files = _files(own, layout)
    found = survey(layout, files, where)
    _check_stages(found.counts, where, model_base)
    inside = found.counts["tower"] > 0
    if config is not None:
        tower_weights = config.tower.weights
    tower = find_tower(layout, own, tower_weights, whole=inside)
    if not inside and tower.source.path is None and tower.source.hub_id is None:
        raise CheckpointError(f"{where} holds no tensor of its tower; pass --tower-weights DIR with the base tower")
    config = _config(layout, own, tower, overrides) if config is None else config
    config = config if max_tiles is None else config.model_copy(update={"images": config.images.at_most(max_tiles)})
    resolved = resolve_tower(config.tower, source=tower.source)
    _check_width(own, resolved)
    taken = "config from" if inside else "weights from"
    notes = [f"{layout.name} checkpoint; tower {resolved.spec.name!r}, its {taken} {tower.how}", *found.notes]
    read = partial(stage_tensors, layout, files)
    if inside:
        notes.insert(1, f"tower weights: {found.counts['tower']} tensors of the checkpoint itself")
        resolved = replace(resolved, source=replace(resolved.source, weights=where), tensors=partial(read, "tower"))
    language = _language(layout, own, model_base, read)
    return Opened(config, own.config, layout, resolved, language, read, tuple(notes))


def _directory(directory: str | Path) -> Source:
    read_config(directory)
    return locate(str(Path(directory).expanduser().absolute()))


def _files(own: Source, layout: Layout) -> list[Path]:
    """The weight files, and the projector's own where that is needed; it may be all there is (the rest is a `model_base`)."""
    assert own.path is not None
    if (own.path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{own.path} holds a LoRA adapter, which is not opened yet; merge it into its base first "
            "(peft's merge_and_unload) and give the merged directory"
        )
    beside = [own.path / layout.projector_file] if layout.projector_file else []
    beside = [file for file in beside if file.is_file()]
    if beside and not any((own.path / pattern).is_file() for pattern in WEIGHT_FILES):
        return beside
    files = own.files(WEIGHT_FILES)
    if beside and not survey(layout, files, own.weights).counts["projector"]:
        return [*files, *beside]
    return files


def _check_stages(counts: Any, where: str, model_base: str | None) -> None:
    if not counts["projector"]:
        raise CheckpointError(f"{where} holds no projector: 0 of its {counts.total()} tensors are one's")
    if not counts["llm"] and model_base is None:
        raise CheckpointError(f"{where} holds no language model; pass --model-base DIR, the one it was trained on")
    if counts["llm"] and model_base is not None:
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


def _language(
    layout: Layout, own: Source, model_base: str | None, read: Callable[[Stage], Iterable[Any]]
) -> LanguagePart:
    config = layout.decoder(own.config)
    if model_base is None:
        return LanguagePart(config, Path(own.weights), partial(read, "llm"))
    base = _directory(model_base)
    return LanguagePart(config, Path(base.weights), lambda: read_tensors(base.files(WEIGHT_FILES)))
