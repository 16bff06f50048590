"""The stages of a training: every check that needs no weight happens here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vita_core.config.training import LoraSettings, PartSettings, StageConfig
from vita_core.errors import ConfigError, nearest
from vita_core.language.conversations import CONVERSATIONS
from vita_core.planning.resolution import Resolved
from vita_core.planning.towers import ResolvedTower

__all__ = ["Stage", "resolve_stages"]


@dataclass(frozen=True)
class Stage:
    """One stage: its settings, how it trains each part that is not frozen, and the names of its data sets."""

    key: str
    settings: StageConfig
    parts: Mapping[str, PartSettings]
    data: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that the config gives it."""
        return self.settings.name


def resolve_stages(resolved: Resolved, data: Iterable[str], processes: int = 1) -> list[Stage]:
    """Return the stages of a config for data sets of these names, shared by so many processes.

    Raises ConfigError for a stage that trains nothing, a part that does not exist, a layer that is out of range, an unknown
    data set, a batch that the processes cannot share, and parts without weights that no stage trains.
    """
    known, config = list(data), resolved.config
    stated = config.training.stages or []
    if config.tower.freeze is not True or any(part.freeze is not True for part in config.tower.towers or ()):
        raise ConfigError(
            "tower.freeze: with `training.stages`, each stage says what it trains. Try: leave it out, and write "
            "`train: {tower: full}` or `train: {tower: {from_layer: 20}}` into a stage"
        )
    stages = [_stage(resolved, f"training.stages[{at}]", stage, known, processes) for at, stage in enumerate(stated)]
    _check_adapters(stages)
    _check_untrained(resolved, stages)
    return stages


def _stage(resolved: Resolved, key: str, settings: StageConfig, known: list[str], processes: int) -> Stage:
    parts = settings.train.trained
    if not parts:
        raise ConfigError(
            f"{key}.train: every part is frozen, so nothing would be trained. Try: `train: {{projector: full}}`"
        )
    for part, how in parts.items():
        _check_part(resolved, f"{key}.train.{part}", part, how, alone=len(parts) == 1)
    names = [settings.data] if isinstance(settings.data, str) else settings.data or known
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{key}.data: no data set of this name: {name!r}.{nearest(name, known)} Try: one of "
                f"{', '.join(known) or 'none is defined'}, or define {name} in the section data"
            )
    if not names:
        raise ConfigError(
            f"{key}.data: there is no data set. Try: add a section `data: {{NAME: {{path: DATA}}}}` to the config"
        )
    templates = ("chat", *CONVERSATIONS)
    if settings.prompt is not None and settings.prompt not in templates:
        raise ConfigError(
            f"{key}.prompt: no template of this name: {settings.prompt!r}.{nearest(settings.prompt, templates)} "
            f"Try: one of {', '.join(templates)}"
        )
    share = processes * settings.accumulate
    if settings.batch_size % share:
        raise ConfigError(
            f"{key}.batch_size: {settings.batch_size} samples cannot be shared by {processes} processes in "
            f"{settings.accumulate} parts each. Try: a multiple of {share}"
        )
    return Stage(key, settings, parts, tuple(names))


def _check_part(resolved: Resolved, key: str, part: str, how: PartSettings, *, alone: bool) -> None:
    """Raise ConfigError for a part that the model does not have, and for a layer that it does not have.

    ``reduce: full`` beside other parts also suits a tower without reductions that learn: the same stages then suit any tower.
    """
    geometry = resolved.tower.geometry
    learns = any(step.spec.trainable for step in geometry.reductions)
    if part == "reduce" and not learns and (alone or not how.full):
        raise ConfigError(f"{key}: the tower has no reduction with weights. Try: leave it out")
    chosen = _chosen(resolved, key, part, how)
    if how.from_layer is None:
        return
    if part == "tower":
        most = min(max(tower.geometry.layers) for tower in chosen)
    elif part == "llm" and resolved.llm is not None:
        most = resolved.llm.layers or how.from_layer
    else:
        raise ConfigError(f"{key}.from_layer: this part has no layers. Try: `{part}: full`")
    if how.from_layer > most:
        raise ConfigError(
            f"{key}.from_layer: {how.from_layer} is after the last layer that runs, {most}, so nothing would be trained. "
            f"Try: {f'1 to {most}, or `{part}: full`' if most else f'`{part}: full`'}"
        )


def _chosen(resolved: Resolved, key: str, part: str, how: PartSettings) -> list[ResolvedTower]:
    """Return the encoders that `how` trains, if it trains the tower. Raises ConfigError for places that it does not have."""
    several = resolved.tower.parts if part == "tower" else ()
    if how.towers is not None and not several:
        raise ConfigError(f"{key}.towers: it chooses among several encoders, `tower.towers`. Try: leave it out")
    beyond = [place for place in how.towers or () if place >= len(several)]
    if beyond:
        raise ConfigError(
            f"{key}.towers: there is no encoder {beyond[0]} in `tower.towers`. Try: places in 0..{len(several) - 1}"
        )
    return [several[place] for place in how.towers] if how.towers else [*several] or [resolved.tower]


def _check_adapters(stages: list[Stage]) -> None:
    """Raise ConfigError for what an adapter of an earlier stage does not allow.

    These are layers of the tower, whose weights are counted in order, and another adapter: a part keeps the one it has.
    """
    adapters: dict[str, tuple[Stage, LoraSettings]] = {}
    for stage, part, how in [(one, *found) for one in stages for found in one.parts.items()]:
        if how.lora is None:
            continue
        before, kept = adapters.setdefault(f"{part}{how.towers}", (stage, how.lora))
        if how.lora != kept.model_copy(update={"dropout": how.lora.dropout}):
            raise ConfigError(
                f"{stage.key}.train.{part}.lora: it differs from that of stage {before.name!r}, and a {part} has one adapter. "
                "Try: the same values in both stages; only `dropout` may differ"
            )
    ways = [(stage, stage.parts["tower"]) for stage in stages if "tower" in stage.parts]
    adapted = next((stage for stage, how in ways if how.lora is not None), None)
    for stage, how in ways:
        if adapted is not None and how.from_layer is not None and stages.index(stage) > stages.index(adapted):
            raise ConfigError(
                f"{stage.key}.train.tower.from_layer: the tower has an adapter since stage {adapted.name!r}. "
                "Try: `tower: full`, or `tower: {lora: {rank: 16}}`"
            )


def _check_untrained(resolved: Resolved, stages: list[Stage]) -> None:
    """Raise ConfigError for a projector or a reduction without weights that the first stage does not train."""
    projector, _ = resolved.language("vita train")
    first = stages[0]
    empty = projector.settings.weights is None and projector.part is None and projector.name != "identity"
    if empty and "projector" not in first.parts:
        raise ConfigError(
            f"{first.key}.train.projector: the projector has no weights yet, and the first stage does not train it. "
            "Try: `projector: full`, or `projector.weights: FILE`"
        )
    steps = [
        step for step in resolved.tower.geometry.reductions if step.spec.trainable and step.settings.weights is None
    ]
    if steps and "reduce" not in first.parts:
        raise ConfigError(
            f"{first.key}.train.reduce: {steps[0].key} has no weights yet, and the first stage does not train it. "
            f"Try: `reduce: full`, or `{steps[0].key}.weights: FILE`"
        )
