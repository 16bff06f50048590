"""Resolve a projector: its spec, its options and its widths. Of saved weights, only the header is read."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vita_core.config.schema import ProjectorConfig
from vita_core.errors import CheckpointError, ConfigError, PluginError, VitaError
from vita_core.layouts.parts import Part
from vita_core.planning.adapters import check_adapter
from vita_core.planning.geometry import Grid
from vita_core.planning.options import validated_options
from vita_core.planning.projector_files import ProjectorFiles, Widths, counts, projector_files, trained_widths
from vita_core.plugins.discovery import describe
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec

__all__ = ["ResolvedProjector", "check_projector_widths", "resolve_projector"]


@dataclass(frozen=True)
class ResolvedProjector:
    """A projector's spec, owner, config and widths.

    `name` is its type without the distribution. `options` are validated. `out_features` is None if the config of the
    language model does not state its width. Its weights are `files`, which the config names, or `part` of a larger
    checkpoint; a projector with neither is untrained.
    """

    spec: ProjectorSpec
    owner: Owner
    name: str
    settings: ProjectorConfig
    options: Mapping[str, Any]
    in_features: int
    out_features: int | None
    part: Part | None = None
    files: ProjectorFiles | None = None

    @property
    def unread(self) -> bool:
        """Whether it has parameters that no file of its own holds. ``identity`` has none."""
        return self.files is None and (self.out_features is None or self.parameters(self.out_features) > 0)

    def behind(self, grid: Grid | None, tokens: int) -> tuple[Grid | None, int]:
        """Return the grid and the number of tokens that it makes of a tower's `tokens`, which lie on `grid`.

        The rule of its spec counts each step of a video by itself. The grid is None if the tokens are on none. Raises
        ConfigError for tokens that it cannot take, and PluginError for a rule that fails.
        """
        rule = self.spec.tokens
        if rule is None:
            return grid, tokens
        if grid is None or math.prod(grid) != tokens:
            raise ConfigError(
                f"projector.type: {self.name!r} needs tokens on a grid, but the tower's {tokens} tokens have none. Try: "
                "`tower.select_feature: patch` and reductions that keep a grid, or `projector.type: mlp2x_gelu`"
            )
        *steps, rows, cols = grid
        found = self._ruled(rule, rows, cols)
        if isinstance(found, int):
            return None, math.prod(steps) * found
        return (*steps, *found), math.prod(steps) * math.prod(found)

    def _ruled(self, rule: Callable[..., Any], rows: int, cols: int) -> tuple[int, int] | int:
        named = {"options": self.options} if "options" in inspect.signature(rule).parameters else {}
        try:
            found = rule(rows, cols, **named)
        except VitaError as error:
            named_key = error.args[0].startswith("projector.")  # a rule may name the option that is wrong
            raise ConfigError(*(error.args if named_key else error.within("projector.type"))) from error
        except Exception as error:  # any error of the plugin's code
            raise self._wrong_rule(rows, cols, describe(error)) from error
        sides = (found,) if isinstance(found, int) else found
        sized = isinstance(sides, tuple | list) and len(sides) == (1 if isinstance(found, int) else 2)
        if not sized or not all(isinstance(side, int) and side > 0 for side in sides):
            raise self._wrong_rule(rows, cols, f"it returned {found!r}")
        return found if isinstance(found, int) else (found[0], found[1])

    def _wrong_rule(self, rows: int, cols: int, reason: str) -> PluginError:
        return PluginError(
            f"projector.type: {self.name!r} of {self.owner} does not say how many tokens it makes of {rows} x {cols}: "
            f"{reason.rstrip('.')}. Try: return (rows, cols) or a number from the `tokens` function of its ProjectorSpec, or "
            "report this to the author of the plugin"
        )

    def macs(self, grid: Grid | None, tokens: int, out_features: int) -> int:
        """Return the multiply-accumulates for a tower's `tokens` on `grid`. Raises as `behind` and `parameters`."""
        _, output = self.behind(grid, tokens)
        if self.spec.macs is None:
            return self.parameters(out_features) * output
        steps = 1 if grid is None or len(grid) == 2 else grid[0]  # of a video, each is projected by itself
        sizes = (self.in_features, out_features, self.options, tokens // steps, output // steps)
        return steps * self.spec.macs(self.name, *sizes)

    def parameters(self, out_features: int) -> int:
        """Return the number of its parameters. Raises ConfigError for widths that it does not support."""
        return self.spec.parameters(self.name, self.in_features, out_features, self.options)


def resolve_projector(
    config: ProjectorConfig, in_features: int, out_features: int | None, part: Part | None = None
) -> ResolvedProjector:
    """Find the spec of a projector, and check that the projector and its saved weights fit both widths.

    Weights in the config are used instead of the checkpoint's own `part`, because they were trained later. Raises
    PluginError, ConfigError, or CheckpointError with both widths.
    """
    found = registry().find(ProjectorSpec, config.type)
    check_adapter("projector.adapter", config.adapter)
    options = validated_options("projector.options", found.spec, found.owner, config.options)
    files = None if config.weights is None else projector_files(config.weights)
    name, own = config.type.rpartition("/")[2], part if files is None else None
    resolved = ResolvedProjector(found.spec, found.owner, name, config, options, in_features, out_features, own, files)
    if out_features is not None:
        resolved.parameters(out_features)
        _check_widths(resolved, out_features)
    return resolved


def _check_widths(resolved: ResolvedProjector, out_features: int) -> None:
    """Raise CheckpointError if the header of the saved weights shows other widths, or another projector of these widths."""
    files, widths = resolved.files, (resolved.in_features, out_features)
    if files is None:
        return
    name = resolved.name
    kind = None if files.type is None else files.type.rpartition("/")[2]
    if kind is not None and kind != name:  # several types have tensors of the same names and shapes
        raise CheckpointError(
            f"projector.weights: {files.where} is a projector of another type than projector.type: {name!r}. "
            f"Try: `projector.type: {files.type}`"
        )
    trained = _trained_widths(resolved, files, widths)
    if trained != widths and not files.stated and (others := _others(files, widths)):
        raise CheckpointError(
            f"projector.weights: {files.where} has the tensors of another projector than projector.type: {name!r}. "
            f"Try: {' or '.join(f'`projector.type: {other}`' for other in others)}"
        )
    if wrong := _other_widths(trained or widths, widths):
        raise CheckpointError(
            f"projector.weights: {files.where} was trained for {wrong}. Try: the settings that "
            "it was trained with, or train a new projector with `vita train CONFIG --data DATA --out DIR`"
        )


def _trained_widths(resolved: ResolvedProjector, files: ProjectorFiles, widths: Widths) -> Widths | None:
    spec, name, options = resolved.spec, resolved.name, resolved.options
    return trained_widths(files, widths, lambda a, b: spec.parameters(name, a, b, options))


def _other_widths(trained: Widths, widths: Widths) -> str:
    """Say for which widths a projector was trained where it should have others, or return an empty text."""
    words = ("a tower of {} channels, but this one gives {}", "a language model of {} channels, but this one takes {}")
    pairs = zip(words, trained, widths, strict=True)
    return ", and for ".join(text.format(before, now) for text, before, now in pairs if before != now)


def check_projector_widths(resolved: ResolvedProjector, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise CheckpointError if the shapes of a projector in the checkpoint `where` are those of other widths.

    Shapes that no widths explain are told when the projector is built.
    """
    if resolved.out_features is None:
        return
    stored, widths = ProjectorFiles(where, (), False, shapes, {}), (resolved.in_features, resolved.out_features)
    if wrong := _other_widths(_trained_widths(resolved, stored, widths) or widths, widths):
        raise CheckpointError(
            f"{where}: its projector was trained for {wrong}. Try: the tower and the settings that it was trained with, or "
            "`projector.weights: FILE` with a projector for these"
        )


def _others(files: ProjectorFiles, widths: Widths) -> list[str]:
    """Return the types of the projectors that have, without options, as many parameters as the files."""
    types = [(name, found.spec) for found in registry().all(ProjectorSpec) for name in _types(found.spec)]
    return [name for name, spec in types if counts(files, widths, partial(_parameters, spec, name))]


def _parameters(spec: ProjectorSpec, name: str, in_features: int, out_features: int) -> int:
    return spec.parameters(name, in_features, out_features, {})


def _types(spec: ProjectorSpec) -> list[str]:
    """Return the types that select a spec; for a pattern, those of MLPs as deep as people train them."""
    if spec.pattern is None:
        return [spec.name]
    return [name for depth in range(1, 5) if re.fullmatch(spec.pattern, name := f"mlp{depth}x_gelu")]
