"""Resolve the configs of a comparison, give them the same tokens and steps, and say what makes them incomparable."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vita_core.comparing.pooling import Grid, fitting, pooled, pooled_grid, unpoolable
from vita_core.comparing.refusing import differing, of_training, refuse_best, refuse_own
from vita_core.config.schema import Config
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import Resolved, resolve
from vita_core.planning.videos import refuse_stills

__all__ = ["Asked", "Options", "Planned", "besides_tower", "named", "plan_configs", "stepped"]


@dataclass(frozen=True)
class Options:
    """What a comparison is told: the `seeds`, the visual `tokens` of a picture and the training `steps` (None: those of the
    configs), the learning `rates` to try, whether `unequal` configs are compared too, and the `benchmarks` of lmms-eval.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    tokens: int | None = None
    steps: int | None = None
    rates: tuple[float, ...] = ()
    unequal: bool = False
    benchmarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A config of a comparison: its name there, its file (or another place), and what overrides it.

    `over` are those overrides that are its values in a sweep.
    """

    name: str
    place: str
    overrides: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A config that can be trained: its overrides with the common tokens and steps, and what it resolves to.

    `tokens` are those of a picture in the language model, `before` what they are without the pooling of the comparison.
    `grid` is where those are, or None if they cannot be pooled. `unequal` says in what it differs from the first config, if that
    is accepted.
    """

    asked: Asked
    resolved: Resolved
    tokens: int
    before: int
    grid: Grid | None = None
    unequal: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the comparison."""
        return self.asked.name

    def with_overrides(self, overrides: Sequence[str]) -> Resolved:
        """Return what it resolves to with more overrides."""
        return resolve(self.asked.place, [*self.asked.overrides, *overrides])


def named(places: Sequence[str], overrides: Sequence[str] = ()) -> list[Asked]:
    """Name configs after their files, or after the folders of files with the same name. Raises ConfigError."""
    paths = [Path(os.path.abspath(Path(place).expanduser())) for place in places]  # noqa: PTH100  # `resolve` follows links
    if again := next((place for at, place in enumerate(places) if paths[at] in paths[:at]), None):
        raise ConfigError(f"{again}: this config is given twice. Try: leave one of them out")
    stems = [path.stem if path.suffix in (".yaml", ".yml") else path.name for path in paths]
    twice = {stem for stem, count in Counter(stems).items() if count > 1}
    names = [f"{path.parent.name}-{stem}" if stem in twice else stem for stem, path in zip(stems, paths, strict=True)]
    clean = [re.sub(r"[^\w.=,+-]", "-", name) for name in names]
    if same := next((name for name, count in Counter(clean).items() if count > 1), None):
        which = [place for name, place in zip(clean, places, strict=True) if name == same]
        raise ConfigError(
            f"two configs have the name {same!r}: {', '.join(which)}. Try: another name for one of the files"
        )
    return [Asked(name, place, tuple(overrides)) for name, place in zip(clean, places, strict=True)]


def plan_configs(
    asked: Sequence[Asked], *, tokens: int | None = None, steps: int | None = None, unequal: bool = False
) -> list[Planned]:
    """Resolve configs with `tokens` visual tokens a picture and so many `steps`.

    Raises ConfigError, one line for each reason, for configs that cannot be compared fairly. With `unequal`, those that
    can be trained all the same get the reasons instead.
    """
    for one in asked:
        refuse_own(one.overrides)
    found = [_planned(one, tokens, steps) for one in asked]
    reasons = [(one, *reason) for one in found for reason in _reasons(one, found[0], found, tokens)]
    if reasons and not unequal:
        raise ConfigError(*(f"{one.name}: {what}. Try: {advice}, or `--unequal`" for one, what, advice in reasons))
    return [replace(one, unequal=tuple(what for of, what, _ in reasons if of is one)) for one in found]


def _planned(asked: Asked, tokens: int | None, steps: int | None) -> Planned:
    """Return a config with fewer tokens and other steps, as far as it can have them."""
    try:
        resolved = resolve(asked.place, asked.overrides)
        resolved.language("vita compare")
        refuse_stills(resolved.tower, "vita compare: it takes still pictures")
        refuse_best(resolved.config)
        own = asked
        if steps is not None:
            own = replace(asked, overrides=(*asked.overrides, *stepped(resolved.config, steps)))
            resolved = resolve(own.place, own.overrides)
        before, grid = make_plan(resolved).tokens, pooled_grid(resolved)
        override = None if tokens is None or tokens >= before else pooled(resolved, tokens)
        if override is not None:
            fewer = replace(own, overrides=(*own.overrides, override))
            resolved = resolve(fewer.place, fewer.overrides)
            return Planned(fewer, resolved, make_plan(resolved).tokens, before, grid)
    except VitaError as error:
        raise type(error)(*error.within(asked.name)) from error
    return Planned(own, resolved, before, before, grid)


def stepped(config: Config, steps: int) -> list[str]:
    """Return the overrides for so many steps, of each stage if there are any."""
    stages = config.training.stages
    if stages is None:
        return [f"training.steps={steps}"]
    keys = [f"training.stages.{place}" for place in range(len(stages))]
    return [f"{key}.{setting}" for key in keys for setting in ("epochs=null", f"steps={steps}")]


def besides_tower(planned: Sequence[Planned]) -> list[str]:
    """Return the keys outside ``tower`` in which configs differ, but for those that a sweep is over."""
    over = {text.partition("=")[0] for one in planned for text in one.asked.over}
    dumps = [one.resolved.config.model_dump(mode="json", exclude={"tower", "device"}) for one in planned]
    keys = {f"{section}.{key}" for dump in dumps for section, found in dump.items() for key in found or ()}
    values = {key: [_at(dump, key) for dump in dumps] for key in sorted(keys)}
    return [
        key
        for key, found in values.items()
        if any(value != found[0] for value in found) and not any(f"{one}.".startswith(f"{key}.") for one in over)
    ]


def _at(dump: dict[str, Any], key: str) -> Any:
    section, _, inner = key.partition(".")
    return (dump.get(section) or {}).get(inner)


def _reasons(one: Planned, first: Planned, every: Sequence[Planned], tokens: int | None) -> Iterator[tuple[str, str]]:
    """Yield why a config cannot be compared with the first one, each with what to do."""
    yield from _of_tokens(one, every, tokens)
    if one is first:
        return
    mine, theirs = one.resolved.config, first.resolved.config
    assert mine.llm is not None
    assert theirs.llm is not None
    for section, key, ignored in (
        ("llm", "llm", {"attention"}),
        ("prompt", "prompt", set()),
        ("generation", "generation", set()),
    ):
        own, other = (getattr(config, section).model_dump(mode="json", exclude=ignored) for config in (mine, theirs))
        yield from differing(key, own, other, first.name)
    if (mine.training.stages is None) != (theirs.training.stages is None):
        has, not_ = (one, first) if mine.training.stages else (first, one)
        yield f"training.stages: {has.name} has stages, {not_.name} has none", "the same form of training"
        return
    if mine.training.stages is None or theirs.training.stages is None:
        yield from of_training("training", mine.training, theirs.training, one.asked.over, first.name)
        return
    if len(mine.training.stages) != len(theirs.training.stages):
        counts = f"{len(mine.training.stages)} stages, {len(theirs.training.stages)} in {first.name}"
        yield f"training.stages: {counts}", "equally many stages"
        return
    for place, stages in enumerate(zip(mine.training.stages, theirs.training.stages, strict=True)):
        yield from of_training(f"training.stages.{place}", *stages, one.asked.over, first.name)


def _of_tokens(one: Planned, every: Sequence[Planned], tokens: int | None) -> Iterator[tuple[str, str]]:
    """Yield why a config has other tokens than the comparison asks for, or than the other configs have."""
    resolved, fewest = one.resolved, min(each.tokens for each in every)
    if resolved.config.images.most_tiles > 1:
        most = resolved.config.images.most_tiles
        yield f"images: a picture has up to {most} tiles, so its tokens differ", "`--set images.tiles=null`"
    elif resolved.tower.shape.native is not None:
        yield "tower: it keeps the aspect of each picture, so its tokens differ", "a tower of one picture size"
    elif tokens is None and one.tokens != fewest:
        told = f"tower: {one.tokens} tokens a picture, but another config has {fewest}"
        yield told, _other_tokens(every, fewest)
    elif tokens is not None and one.before < tokens:
        told = f"tower: {one.before} tokens a picture, fewer than {tokens}, and tokens are only pooled down"
        yield told, _other_tokens(every, tokens - 1)
    elif tokens is not None and one.tokens != tokens:
        grid = " x ".join(map(str, resolved.tower.geometry.grid or ()))
        why = unpoolable(resolved) or f"no grid of {tokens} tokens fits into {grid}"
        yield (
            f"tower: {one.before} tokens a picture cannot be pooled to {tokens}: {why}",
            _other_tokens(every, tokens - 1),
        )


def _other_tokens(every: Sequence[Planned], most: int) -> str:
    """Return the advice to take the largest number of tokens up to `most` that all configs can have."""
    counts = (count for count in range(most, 0, -1) if all(_can_have(one, count) for one in every))
    found = next(counts, None)
    return "configs whose tokens can be pooled" if found is None else f"`--tokens {found}`"


def _can_have(one: Planned, tokens: int) -> bool:
    fits = one.grid is not None and fitting(one.grid, tokens) is not None
    return one.before == tokens or (one.before > tokens and fits)
