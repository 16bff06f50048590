"""Resolve a tower of one encoder: choose its spec, read the checkpoint's config, and compute its sizes. No weight is read."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from vita_core.config.schema import TowerConfig
from vita_core.config.validation import validate
from vita_core.errors import CheckpointError, ConfigError, PluginError, VitaError
from vita_core.layouts.parts import Part
from vita_core.planning.adapters import check_adapter
from vita_core.planning.asking import asked, shape_of, takes
from vita_core.planning.described import choose_tower, located, random_weights
from vita_core.planning.geometry import Geometry, Grid, in_whole_blocks, own_merge, tower_geometry
from vita_core.planning.inside import block_macs, check_offered
from vita_core.planning.options import validated_options
from vita_core.planning.origins import key_origins, merged, size_origin
from vita_core.planning.pictures import bounded, check_patches, completed, height_width, resized
from vita_core.planning.reductions import reduced, stated_blocks
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import import_object, registry
from vita_core.plugins.specs import Shape, TowerSpec
from vita_core.weights.sources import Source
from vita_core.weights.stated import check_commit, quantised, with_code, with_processor

__all__ = ["ResolvedTower", "resolve_encoder"]


@dataclass(frozen=True)
class ResolvedTower:
    """A tower's spec, owner, config and sizes.

    `rule` says why this tower was chosen. `settings` is its config with the defaults of its type. Its weights are the files
    of `source`, or `part` of a larger checkpoint. `processor` is the preprocessor config. `origins` says where the value of
    each key of `settings` comes from, and that of ``image_size``. `random` is True if there are no weights to load. `parts` are
    the towers that it joins, if there are several (`ResolvedFused`).
    """

    spec: TowerSpec
    owner: Owner
    rule: str
    settings: TowerConfig
    source: Source
    shape: Shape
    geometry: Geometry
    processor: Mapping[str, Any]
    part: Part | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    random: bool = False
    parts: tuple[ResolvedTower, ...] = ()

    @property
    def parameters(self) -> int:
        """The number of parameters that are built: the blocks up to the last selected layer, and the final norm."""
        built = self.shape.stages[: self.geometry.blocks + 1]
        return sum(stage.parameters for stage in built) + (self.shape.norm_parameters or 0)

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the encoder for one picture. Blocks behind the last selected layer do not run."""
        if self.geometry.inside:
            return sum(block_macs(self.shape, self.geometry.patches))
        run = self.shape.stages[: max(self.geometry.layers) + 1]
        return self.geometry.crops * sum(stage.macs for stage in run)

    @property
    def patches_per_token(self) -> int:
        """The number of patches that the model's merger and the reductions join to one token.

        It counts the reductions up to the first one that does not join blocks of neighbours (see `ReductionSpec.block`).
        """
        blocks = [1 if self.shape.native is None else own_merge(self.shape)]
        blocks += [block for _, block in stated_blocks(self.settings)]
        return math.prod(blocks) ** 2

    @property
    def most_tokens(self) -> int:
        """The largest number of output tokens of one picture. Only with native resolution it exceeds that of a square one."""
        native, geometry = self.shape.native, self.geometry
        if native is None or self.settings.select_feature == "cls" or geometry.inside:
            return geometry.num_tokens
        most = int(native.max_tokens)
        if native.by_edge:  # each side is rounded up to whole blocks
            most = (math.ceil(math.isqrt(int(native.max_tokens * native.patch**2)) / native.block) * native.merge) ** 2
        tokens = int(self.settings.select_feature == "cls_patch") + most // self.patches_per_token
        behind = geometry.reductions[len(stated_blocks(self.settings)) :]
        with suppress(VitaError):  # a step that needs a grid gives every picture as many tokens
            return math.prod(reduced(behind, (tokens, behind[0].before[-1]))[:-1]) if behind else tokens
        return geometry.num_tokens

    @property
    def budget(self) -> tuple[int, int] | None:
        """The fewest and most output tokens of a picture, for native resolution. The rule `fill` has no lower limit."""
        native = self.shape.native
        if native is None or not self.by_blocks:
            return None
        return max(1, math.ceil(native.min_tokens / self.patches_per_token)) + self._extra, self.most_tokens

    @property
    def one_size(self) -> bool:
        """Whether every picture gets as many output tokens, on the same grid. With native resolution, a reduction does it."""
        native, steps = self.shape.native, self.geometry.reductions
        if native is None or self.settings.select_feature == "cls":
            return True
        if not steps:
            return False
        *places, width = steps[0].before
        side = native.merge // own_merge(self.shape)  # of the smallest picture
        smallest = (
            (side, side, width)
            if len(places) > 1
            else (side * side + (self.settings.select_feature == "cls_patch"), width)
        )
        try:
            return reduced(steps, smallest) == steps[-1].after
        except VitaError:
            return False

    @property
    def by_blocks(self) -> bool:
        """Whether the number of output tokens is the number of blocks of patches, apart from a kept CLS token."""
        return self.settings.select_feature != "cls" and all(step.block for step in self.geometry.reductions)

    @property
    def _extra(self) -> int:
        return int(self.settings.select_feature == "cls_patch" and not self.geometry.reductions)

    def grid_of(self, height: int, width: int) -> Grid | None:
        """Return the grid of the output tokens for pixels of (height, width), or None if a reduction leaves none."""
        native, reductions = self.shape.native, self.geometry.reductions
        if native is None:
            return self.geometry.grid
        rows, cols = (side // own_merge(self.shape) for side in native.grid(height, width))
        if not reductions:
            return rows, cols
        sizes = (rows, cols, reductions[0].before[-1]) if len(reductions[0].before) == 3 else reductions[0].before
        *grid, _ = reduced(reductions, sizes)
        return tuple(grid) if len(grid) > 1 else None


def resolve_encoder(
    settings: TowerConfig,
    *,
    offline: bool = False,
    source: Source | None = None,
    part: Part | None = None,
    marks: Mapping[str, str] | None = None,
) -> ResolvedTower:
    """Resolve one encoder, alone or as a part of a fused tower. `vita_core.planning.towers.resolve_tower` describes it."""
    if settings.type is not None:  # report a misspelled type before the first request to the hub
        registry().find(TowerSpec, settings.type)
    if settings.trust_remote_code:
        check_commit("tower", settings.weights, settings.revision)
    choice, source = choose_tower(settings, source or located(settings, offline=offline))
    spec, owner = choice.tower.spec, choice.tower.owner
    rule = f"known hub id {source.hub_id}" if source.published and settings.type is None else choice.rule
    random = random_weights(settings)
    rule += ", with random weights (`tower.options.pretrained` is false)" if random else ""
    _check(settings, spec, source)
    check_adapter("tower.adapter", settings.adapter)
    source = with_code(with_processor(source), trusted=settings.trust_remote_code)
    defaults = _defaults(settings, spec, owner, source)
    origins = key_origins(settings, defaults, spec, marks or {})
    settings = settings.model_copy(update=merged(settings, defaults))
    options = validated_options("tower.options", spec, owner, settings.options)
    settings = settings.model_copy(update={"options": options})
    shape = _shape(spec, owner, settings, source)
    if shape.native is not None:
        shape = in_whole_blocks(settings, shape, lambda size: shape_of(spec, owner, source, options, size))
    geometry = tower_geometry(settings, shape)
    check_offered(spec, owner, source, settings, (*geometry.inside, *geometry.reductions))
    processor = bounded(_processor(spec, owner, source, shape, options), shape, source, spec.config_file)
    if settings.image_size is not None:
        processor = resized(processor, shape.image_size)
    if settings.s2 is not None:  # make pictures of the largest scale, so that its crops show real detail
        processor = resized(processor, geometry.input_size, exactly=True)
    origins["image_size"] = size_origin(shape, source, origins)
    return ResolvedTower(spec, owner, rule, settings, source, shape, geometry, processor, part, origins, random)


def _check(settings: TowerConfig, spec: TowerSpec, source: Source) -> None:
    """Raise ConfigError for settings that a tower does not support, and CheckpointError for quantised weights."""
    if settings.trust_remote_code and not spec.remote_code:
        raise ConfigError(
            f"tower.trust_remote_code: tower {spec.name!r} runs no code from a checkpoint's repository. "
            "Try: `tower.trust_remote_code: false`"
        )
    if settings.attention not in ("auto", *spec.attentions):
        choices = f"one of auto, {', '.join(spec.attentions)}" if spec.attentions else "`tower.attention: auto`"
        raise ConfigError(
            f"tower.attention: tower {spec.name!r} does not support {settings.attention!r}. Try: {choices}"
        )
    method = quantised(source.config)
    if method is not None:
        raise CheckpointError(
            f"{source.weights}: its weights are quantised: {method} (quantization_config in its config.json). A tower computes "
            "with the weights as they were trained. Try: the checkpoint that it was made from"
        )


def _shape(spec: TowerSpec, owner: Owner, settings: TowerConfig, source: Source) -> Shape:
    """Return what the spec's shape function gives, or the shape that one run of the encoder gives if there is none."""
    size = height_width(settings.image_size)
    if spec.shape is None:
        derived = import_object("vita_core.towers.deriving:derived_shape", requires=None, owner=owner)
        compute = functools.partial(derived, spec, owner, settings, source)
    elif size is None or takes(spec.shape, spec, owner, "image_size"):
        compute = functools.partial(shape_of, spec, owner, source, settings.options, None)
    else:
        raise ConfigError(
            f"tower.image_size: tower {spec.name!r} takes no other size than its checkpoint's. "
            "Try: `tower.image_size: null`"
        )
    own: Shape | None = None
    with suppress(VitaError):  # a checkpoint without a size of its own
        own = compute(None) if size is not None else None
    if size is not None and own is not None:
        check_patches(size, own)
    shape: Shape = compute(size)
    return shape


def _processor(
    spec: TowerSpec, owner: Owner, source: Source, shape: Shape, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the checkpoint's preprocessor config, or what the spec states. A function of the spec may change the former."""
    if source.preprocessor and not takes(spec.processor, spec, owner, "preprocessor"):
        return source.preprocessor
    if spec.processor is None or isinstance(spec.processor, Mapping):
        return completed(spec.processor, shape, source)
    stated: Mapping[str, Any] = asked(spec.processor, spec, owner, source, shape, options=options)
    return stated


def _defaults(settings: TowerConfig, spec: TowerSpec, owner: Owner, source: Source) -> Mapping[str, Any]:
    """Return the spec's defaults for a checkpoint. Raises PluginError for a wrong one."""
    stated: Mapping[str, Any] = asked(lambda config: dict(spec.defaults_for(config)), spec, owner, source)
    try:
        validate(TowerConfig, {"weights": settings.weights, **merged(settings, stated)})
    except ConfigError as error:
        start = f"plugin {owner.plugin} of {owner}: the defaults of its tower {spec.name!r} are not valid"
        raise PluginError(*error.within(start)) from error
    return stated
