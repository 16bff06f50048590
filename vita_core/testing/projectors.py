"""The projector under test. All its contracts are those of `module_checks`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from vita_core.config.schema import ProjectorConfig
from vita_core.language.projectors import build_projector, project
from vita_core.planning.options import validated_options
from vita_core.planning.projectors import ResolvedProjector, resolve_projector
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec
from vita_core.testing.modules import GRIDS, Case, TokenModule, options_of, refused
from vita_core.testing.outcomes import BrokenContractError

__all__ = ["Projector", "open_projector"]

WIDTHS = ((32, 48), (256, 512), (32, 32))
"""The widths that are tried, of the tower and of the language model."""


@dataclass(frozen=True)
class Projector(TokenModule):
    """A projector under test."""

    kind: ClassVar[str] = "projector"
    spec: ProjectorSpec

    @cached_property
    def resolved(self) -> ResolvedProjector:
        """The projector for the first of `WIDTHS` that it supports."""
        config, reason = ProjectorConfig(type=self.name, options=dict(self.options)), ""
        for widths in WIDTHS:
            found, reason = refused(resolve_projector, config, *widths)
            if found is not None:
                return found  # type: ignore[no-any-return]  # a plugin's module may return anything
        raise BrokenContractError(f"`parameters` accepts none of the widths that the kit tries: {reason}")

    def find_cases(self) -> tuple[list[Case], str]:
        """Ask the projector about each grid, and about tokens without one."""
        found, reason, width, out_width = [], "", self.resolved.in_features, self.out_features
        for grid in (*GRIDS, None):
            tokens = 7 if grid is None else math.prod(grid)
            after, refusal = refused(self.resolved.behind, grid, tokens)
            if after is None:
                reason = refusal if grid else reason
            else:
                after_grid, after_tokens = after
                found.append(Case(grid, tokens, width, after_grid, after_tokens, out_width))
        return found, reason

    @property
    def out_features(self) -> int:
        """The width of the language model."""
        assert self.resolved.out_features is not None
        return self.resolved.out_features

    def planned_parameters(self, case: Case) -> int:
        """What `parameters` of the spec says."""
        return self.resolved.parameters(self.out_features)

    def make(self, case: Case) -> nn.Module:
        """Build it as a model does. It is the same for every grid."""
        return build_projector(self.resolved, self.out_features, dtype=torch.float32, device=torch.device("cpu"))

    def run(self, module: nn.Module, case: Case, tokens: Tensor) -> Tensor:
        """Call it as a model does: with the grid if its forward declares it."""
        return project(module, tokens, case.grid)


def open_projector(name: str, overrides: Sequence[str] = ()) -> Projector:
    """Return the projector of a type, such as ``"mlp2x_gelu"``. `overrides` are options, such as ``"hidden_size=64"``.

    Raises PluginError for an unknown type, and ConfigError for options that are not valid.
    """
    found = registry().find(ProjectorSpec, name)
    options = validated_options("projector.options", found.spec, found.owner, options_of(found.spec.example, overrides))
    return Projector(name, found.owner, options, found.spec)
