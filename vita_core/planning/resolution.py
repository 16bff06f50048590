"""Resolve a config or a checkpoint, stage by stage. All checks that need no weights happen here."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vita_core.config.configfiles import read_config
from vita_core.config.schema import Config, LLMConfig, config_from
from vita_core.config.validation import validate
from vita_core.errors import ConfigError, PluginError
from vita_core.layouts.finding import FoundTower
from vita_core.planning.checkpoints import (
    Checkpoint,
    check_language,
    check_projector,
    check_width,
    checkpoint_config,
    is_checkpoint,
    is_known,
    is_tower,
    open_checkpoint,
)
from vita_core.planning.geometry import needed_grid
from vita_core.planning.language import ResolvedLLM, resolve_llm
from vita_core.planning.native import with_budget
from vita_core.planning.origins import override_marks, tower_marks
from vita_core.planning.projectors import ResolvedProjector, check_projector_widths, resolve_projector
from vita_core.planning.reduction_weights import check_weights
from vita_core.planning.towers import ResolvedTower, resolve_tower
from vita_core.planning.videos import with_frames

__all__ = ["Place", "Resolved", "resolve"]

Place = Config | Mapping[str, Any] | str | os.PathLike[str]
"""Where a model is described: a config, a mapping of its sections, a YAML file, the name of a shipped config, a directory."""


@dataclass(frozen=True)
class Resolved:
    """Everything that is known about a model before a weight is read: its config and its resolved stages.

    `name` is how error messages call the model. A tower alone has no `projector` and no `llm`. `checkpoint` is a checkpoint
    of another project, whose files contain the stages. If it is None, each stage has its own files.
    """

    name: str
    config: Config
    tower: ResolvedTower
    projector: ResolvedProjector | None = None
    llm: ResolvedLLM | None = None
    checkpoint: Checkpoint | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that tell the user where each part of a checkpoint comes from and what is skipped."""
        return () if self.checkpoint is None else self.checkpoint.notes

    def language(self, purpose: str) -> tuple[ResolvedProjector, ResolvedLLM]:
        """Return the projector and the language model.

        Raises ConfigError for a tower alone. `purpose` is what needs them, for the error message.
        """
        if self.projector is None or self.llm is None:
            if is_checkpoint(self.name):
                kind, source = self.tower.source.config.get("model_type"), self.tower.source.weights
                raise ConfigError(
                    f"{self.name}: not run as a whole model: model_type {kind!r}. Its tower opens. Try: a config with these "
                    "lines and `llm.weights: LLM`, or the tower alone with `vita encode DIR PICTURE --out OUT.safetensors`",
                    "  tower:",
                    f"    type: {self.tower.spec.name}",
                    f"    weights: {source}",
                )
            raise ConfigError(
                f"{self.name}: the section 'llm' is missing: {purpose} needs a language model. Try: add `llm.weights: DIR`, "
                "or use the tower alone with `vita encode CONFIG PICTURE --out OUT.safetensors`"
            )
        return self.projector, self.llm


def resolve(
    place: Place,
    overrides: Sequence[str] = (),
    *,
    tower_weights: str | None = None,
    model_base: str | None = None,
    max_tiles: int | None = None,
    offline: bool = False,
    tower_only: bool = False,
) -> Resolved:
    """Resolve a config, or the directory of a checkpoint of another project, without reading a weight.

    overrides: ``"key.key=value"`` strings, as in `load_config`.
    tower_weights: the tower of a checkpoint that contains none, or whose config names a path that does not exist.
    model_base: the language model that a checkpoint without one (or a LoRA adapter) was trained on.
    max_tiles: the largest number of tiles that a picture is cut into.
    offline: use the published configs of known hub ids without a request to the hub.
    tower_only: do not resolve the projector and the language model.

    A directory of another model, of which only a tower opens its part, gives a tower alone. If ``llm.weights`` of a config
    is a checkpoint of another project (as in configs that ``vita migrate`` writes), it is opened with the settings of the
    config. Raises VitaError if the parts do not fit together.
    """
    whole = isinstance(place, str | os.PathLike) and is_checkpoint(os.fspath(place)) and not is_tower(os.fspath(place))
    if isinstance(place, str | os.PathLike) and whole:
        checkpoint = open_checkpoint(os.fspath(place), model_base)
        found = checkpoint.find_tower(tower_weights)
        config = checkpoint_config(checkpoint.layout, checkpoint.source, found, overrides)
        given = dict.fromkeys(config.tower.model_fields_set, "checkpoint: config.json")
        marks: Mapping[str, str] = given | override_marks(overrides)
        resolved = _of_checkpoint(os.fspath(place), checkpoint, found, _at_most(config, max_tiles), marks)
    else:
        name, config, marks = _config(place, overrides)
        _refuse_flags(
            name,
            {("--tower-weights", "tower.weights"): tower_weights, ("--model-base", "llm.weights"): model_base},
        )
        config = _at_most(config, max_tiles)
        if config.llm is not None and is_known(config.llm.weights):
            _refuse_several(config, config.llm)
            checkpoint = open_checkpoint(config.llm.weights)
            found = checkpoint.find_tower(config.tower.weights, swap=True)
            resolved = _of_checkpoint(name, checkpoint, found, config, marks)
        else:
            resolved = Resolved(name, config, resolve_tower(config.tower, offline=offline, marks=marks))
    resolved = _sized(resolved)
    if tower_only or resolved.config.llm is None:
        return resolved
    return _with_language(resolved, resolved.config.llm, offline=offline)


def _sized(resolved: Resolved) -> Resolved:
    """Return `resolved` with the sizes that its section ``images`` asks for, for which the weights of reductions must fit."""
    tower, images = with_frames(with_budget(resolved.tower, resolved.config.images), resolved.config.images)
    check_weights(tower)
    return replace(resolved, tower=tower, config=resolved.config.model_copy(update={"images": images}))


def _of_checkpoint(
    name: str, checkpoint: Checkpoint, found: FoundTower, config: Config, marks: Mapping[str, str]
) -> Resolved:
    """Resolve the tower of a checkpoint with the settings of `config`. Its tensors are the checkpoint's own if it has any."""
    inside = checkpoint.counts["tower"]
    part = checkpoint.part("tower") if inside else None
    tower = resolve_tower(config.tower, source=found.source, part=part, marks=marks)
    check_width(checkpoint, tower)
    kind, *others = checkpoint.notes
    notes = [f"{kind}; tower {tower.spec.name!r}, {'config' if inside else 'weights'} from {found.how}", *others]
    if inside:
        notes.append(f"tower weights: {inside} tensors of the checkpoint itself")
        tower = replace(tower, source=replace(tower.source, weights=checkpoint.source.weights))
    return Resolved(name, config, tower, checkpoint=replace(checkpoint, notes=tuple(notes)))


def _with_language(resolved: Resolved, llm_config: LLMConfig, *, offline: bool) -> Resolved:
    """Return `resolved` with its projector and its language model."""
    checkpoint, width = resolved.checkpoint, resolved.tower.geometry.hidden_size
    if checkpoint is None:
        llm, part = resolve_llm(llm_config, offline=offline), None
    else:
        check_language(checkpoint)
        llm, part = resolve_llm(llm_config, part=checkpoint.language()), checkpoint.part("projector")
    try:
        projector = resolve_projector(resolved.config.projector, width, llm.hidden_size, part)
    except PluginError as error:
        stated = None if checkpoint is None else checkpoint.old_config.get("mm_projector_type")
        if checkpoint is None or str(stated) != resolved.config.projector.type:
            raise
        raise PluginError(*error.within(f"{checkpoint.source.weights}: mm_projector_type")) from error
    if checkpoint is not None and projector.unread:
        check_projector(checkpoint)
        check_projector_widths(projector, checkpoint.projector, checkpoint.source.weights)
    _check_rows(resolved, projector)
    return replace(resolved, projector=projector, llm=llm)


def _check_rows(resolved: Resolved, projector: ResolvedProjector) -> None:
    """Raise ConfigError for tokens that the projector cannot take, or that have no rows where the config needs them."""
    anyres, geometry = resolved.config.images.anyres, resolved.tower.geometry
    if anyres is not None and resolved.config.prompt.row_tokens is not None:
        raise ConfigError(
            "prompt.row_tokens: they stand behind the rows of one picture, but `images.anyres` joins the tokens of its tiles. "
            "Try: `prompt.row_tokens: null`, or `images.anyres: null`"
        )
    needs = {
        "images.anyres.merge: flat": anyres is not None and anyres.merge != "flat",
        "prompt.row_tokens: null": resolved.config.prompt.row_tokens is not None,
    }
    instead = next((setting for setting, needed in needs.items() if needed), None)
    own = geometry.grid if instead is None else needed_grid(geometry.grid)
    grid, tokens = projector.behind(own, geometry.num_tokens)
    if instead is None or (grid is not None and math.prod(grid) == tokens and len(grid) == 2):
        return
    key = instead.partition(":")[0]
    if grid is None:
        wrong = f"projector {projector.name!r} gives {tokens} tokens without any"
        raise ConfigError(f"{key}: it needs rows of tokens, but {wrong}. Try: `{instead}`, or another `projector.type`")
    wrong = f"a CLS token is kept beside {' x '.join(map(str, grid))}" if len(grid) == 2 else "these are of a video"
    raise ConfigError(f"{key}: it needs rows of tokens, but {wrong}. Try: `{instead}`")


def _refuse_several(config: Config, llm: LLMConfig) -> None:
    """Raise ConfigError for several encoders beside a checkpoint of another project, which was trained with one."""
    if config.tower.towers is not None:
        raise ConfigError(
            f"tower.towers: {llm.weights} is a whole model of another project, which has one encoder. "
            "Try: one encoder, or `llm.weights: DIR` with a language model alone"
        )


def _at_most(config: Config, tiles: int | None) -> Config:
    return config if tiles is None else config.model_copy(update={"images": config.images.at_most(tiles)})


def _refuse_flags(name: str, flags: Mapping[tuple[str, str], str | None]) -> None:
    """Raise ConfigError for options that only apply to the directory of a checkpoint of another project."""
    for (flag, key), value in flags.items():
        if value is not None:
            raise ConfigError(
                f"{flag} only applies to the directory of a VITA or LLaVA checkpoint: {name} is not one. Try: leave it out, or "
                f"`--set {key}={shlex.quote(value)}`"
            )


def _config(place: Place, overrides: Sequence[str]) -> tuple[str, Config, Mapping[str, str]]:
    """Return the name for error messages, the config, and where the keys of its tower are set."""
    if isinstance(place, str | os.PathLike) and is_checkpoint(os.fspath(place)):
        tower = {"weights": str(Path(place).expanduser().absolute())}
        return os.fspath(place), config_from({"tower": tower}, overrides, os.fspath(place)), override_marks(overrides)
    if isinstance(place, str | os.PathLike):
        document = read_config(place, overrides)
        return os.fspath(place), validate(Config, document.data, document.marks), tower_marks(document)
    if isinstance(place, Mapping) and not overrides:
        return "config", validate(Config, place), {}
    if overrides:
        data = place.model_dump(exclude_unset=True) if isinstance(place, Config) else place
        return "config", config_from(data, overrides, "config"), override_marks(overrides)
    assert isinstance(place, Config)
    return "config", place, {}
