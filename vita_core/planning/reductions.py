"""Resolve the reductions of a tower: their specs, options and sizes. No weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vita_core.config.reductions import ReductionConfig
from vita_core.config.schema import TowerConfig
from vita_core.errors import ConfigError, PluginError, VitaError
from vita_core.planning.options import validated_options
from vita_core.plugins.discovery import describe
from vita_core.plugins.installed import Owner
from vita_core.plugins.reductions import ReductionSpec, Sizes
from vita_core.plugins.registry import registry

__all__ = ["ResolvedReduction", "reduced", "resolve_reductions", "stated_blocks", "stated_steps"]


@dataclass(frozen=True)
class ResolvedReduction:
    """A reduction's spec, owner, config and sizes.

    `key` is where the config states it (``tower.reduce[0]``). `options` are validated. `before` and `after` are the sizes of
    the tokens of a picture of the configured size, or of one step of a video.
    """

    spec: ReductionSpec
    owner: Owner
    key: str
    settings: ReductionConfig
    options: Mapping[str, Any]
    before: Sizes
    after: Sizes

    @property
    def parameters(self) -> int:
        """The number of its parameters."""
        return 0 if self.spec.parameters is None else self.spec.parameters(self.before, self.options)

    @property
    def macs(self) -> int:
        """Its multiply-accumulates for one picture of the configured size, or for one step of a video."""
        return 0 if self.spec.macs is None else self.spec.macs(self.before, self.options)

    @property
    def block(self) -> int | None:
        """How many tokens of a side it joins to one, or None if its rule is another."""
        return None if self.spec.block is None else self.spec.block(self.options)

    def sizes(self, sizes: Sizes) -> Sizes:
        """Return the sizes after it of tokens of these sizes. Raises ConfigError that names the key."""
        if self.spec.spatial and len(sizes) == 2:
            raise ConfigError(
                f"{self.key}: {self.spec.name!r} needs the grid of the tokens, but the step before it leaves none. "
                "Try: this step first"
            )
        try:
            after = self.spec.sizes(sizes, self.options)
        except VitaError as error:
            raise ConfigError(*error.within(self.key)) from None
        except Exception as error:  # any error of the plugin's code
            raise PluginError(
                f"plugin {self.owner.plugin} of {self.owner}: the sizes of its reduction {self.spec.name!r} failed for "
                f"{sizes}: {describe(error)}. Try: other options, or report this to the author of the plugin"
            ) from error
        whole = isinstance(after, tuple) and len(after) in (2, 3) and all(isinstance(n, int) and n > 0 for n in after)
        if not whole or len(after) > len(sizes):
            raise PluginError(
                f"plugin {self.owner.plugin} of {self.owner}: the sizes of its reduction {self.spec.name!r} are {after!r}. "
                "Try: return (rows, cols, width) or (tokens, width), or report this to the author of the plugin"
            )
        return after


def resolve_reductions(config: TowerConfig, sizes: Sizes) -> tuple[ResolvedReduction, ...]:
    """Resolve the reductions behind an encoder for tokens of `sizes`: pixel shuffle, pool, then the steps of ``reduce``.

    Raises ConfigError or PluginError for an unknown type, wrong options, and a step that is impossible for its tokens.
    """
    found = []
    for step in stated_steps(config):
        if step.settings.blocks is not None:
            continue  # it runs inside the encoder
        found.append(replace(step, before=sizes, after=step.sizes(sizes)))
        sizes = found[-1].after
    return tuple(found)


def stated_blocks(config: TowerConfig) -> list[tuple[str, int]]:
    """Return the key and the `ResolvedReduction.block` of each step, up to one without a block."""
    blocks = []
    for step in stated_steps(config):
        if step.block is None:
            break
        blocks.append((step.key, step.block))
    return blocks


def stated_steps(config: TowerConfig) -> list[ResolvedReduction]:
    """Resolve the steps that a config states, in order, without sizes. Raises ConfigError or PluginError."""
    found: list[ResolvedReduction] = []
    for key, settings in _stated(config):
        try:
            spec = registry().find(ReductionSpec, settings.type)
        except PluginError as error:
            raise PluginError(*error.within(f"{key}.type")) from error
        options = validated_options(key, spec.spec, spec.owner, settings.options)
        found.append(ResolvedReduction(spec.spec, spec.owner, key, settings, options, (), ()))
        _check(found[-1], config.select_feature)
    return found


def _stated(config: TowerConfig) -> list[tuple[str, ReductionConfig]]:
    """Return the key and the config of each step."""
    stated = []
    if config.pixel_shuffle:
        shuffle = ReductionConfig.model_validate({"type": "pixel_shuffle", "scale_factor": config.pixel_shuffle})
        stated.append(("tower.pixel_shuffle", shuffle))
    if config.pool:
        stated.append(("tower.pool", ReductionConfig.model_validate({"type": "pool", "grid": config.pool})))
    steps = config.reduce if isinstance(config.reduce, list) else [config.reduce] if config.reduce else []
    return [*stated, *((f"tower.reduce[{index}]", step) for index, step in enumerate(steps))]


def _check(step: ResolvedReduction, feature: str | None) -> None:
    name, settings = step.spec.name, step.settings
    if step.spec.spatial and feature not in (None, "patch"):
        raise ConfigError(
            f"{step.key}: it cannot be used with select_feature {feature!r}, because the CLS token has no place in the grid. "
            "Try: `tower.select_feature: patch`"
        )
    if settings.blocks is not None and step.spec.inside is None:
        raise ConfigError(f"{step.key}.blocks: {name!r} only runs after the encoder. Try: leave it out")
    if settings.blocks is not None and step.spec.trainable:
        raise ConfigError(
            f"{step.key}.blocks: {name!r} has weights, so it only runs after the encoder. Try: leave it out"
        )
    if settings.weights is not None and not step.spec.trainable:
        raise ConfigError(f"{step.key}.weights: {name!r} has no weights. Try: leave it out")


def reduced(reductions: Sequence[ResolvedReduction], sizes: Sizes) -> Sizes:
    """Return the sizes after all `reductions` of tokens of these sizes. Raises ConfigError."""
    for step in reductions:
        sizes = step.sizes(sizes)
    return sizes
