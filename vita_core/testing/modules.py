"""The reduction or projector under test: a module between the encoder and the language model, with random weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vita_core.config.configfiles import overridden
from vita_core.errors import PluginError, VitaError
from vita_core.plugins.installed import Owner
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.specs import ProjectorSpec
from vita_core.testing.outcomes import BrokenContractError, SkippedCheckError
from vita_core.testing.subject import random_values
from vita_core.untrusted.yamlfiles import Document, Mark

__all__ = ["Case", "TokenModule", "options_of"]

GRIDS = ((8, 8), (12, 4), (4, 12), (5, 7), (24, 24))
"""The grids that are tried: square, tall, wide, and of odd sides. The last has room for what makes many tokens."""


@dataclass(frozen=True)
class Case:
    """Tokens that a module is tested with, and what its rule says about its output.

    `grid` is their (rows, cols), or None without one, and `width` their number of channels. `after_grid`, `after_tokens` and
    `after_width` are those of the output.
    """

    grid: tuple[int, int] | None
    tokens: int
    width: int
    after_grid: tuple[int, int] | None
    after_tokens: int
    after_width: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens without a grid" if self.grid is None else "a grid of {} x {}".format(*self.grid)


@dataclass(frozen=True)
class TokenModule(ABC):
    """A reduction or a projector under test. `kind` is which. `options` are validated."""

    kind: ClassVar[str]
    name: str
    owner: Owner
    options: Mapping[str, Any]
    spec: ReductionSpec | ProjectorSpec

    @property
    def modules(self) -> Sequence[str]:
        """The ``"module:name"`` strings that `vita plan` imports: that of the options."""
        return [self.spec.options] if self.spec.options else []

    @abstractmethod
    def find_cases(self) -> tuple[list[Case], str]:
        """Return the cases that the rule accepts, and its reason for refusing another, or an empty string."""

    @abstractmethod
    def planned_parameters(self, case: Case) -> int:
        """The number of parameters that the spec states."""

    @abstractmethod
    def make(self, case: Case) -> nn.Module:
        """Build the module for a case as its factory returns it."""

    @abstractmethod
    def run(self, module: nn.Module, case: Case, tokens: Tensor) -> Tensor:
        """Call a module with the tokens (B, N, C) of a case."""

    def accepted(self) -> list[Case]:
        """Return what it is tested with. Raises BrokenContractError if its rule accepts nothing."""
        found, reason = self.find_cases()
        if not found:
            raise BrokenContractError(f"the rule accepts none of the sizes that the kit tries: {reason}")
        return found

    @cached_property
    def cases(self) -> list[Case]:
        """What it is tested with."""
        try:
            return self.accepted()
        except Exception as error:
            raise self._skipped("tested") from error

    def build(self, case: Case | None = None) -> nn.Module:
        """Build the module for a case, by default the first, in eval mode and with random parameters."""
        module = self.make(case or self.cases[0])
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(random_values(name, parameter, generator))
        return module.eval()

    def tokens(self, case: Case | None = None, count: int = 2) -> Tensor:
        """Return random tokens (count, N, C) of a case, by default the first; the same in every call."""
        case = case or self.cases[0]
        return torch.randn(count, case.tokens, case.width, generator=torch.Generator().manual_seed(0))

    @cached_property
    def module(self) -> nn.Module:
        """A module for the first case that the checks share. They must not change it."""
        try:
            return self.build()
        except Exception as error:
            raise self._skipped("built") from error

    def _skipped(self, done: str) -> SkippedCheckError:
        return SkippedCheckError(f"the {self.kind} cannot be {done}; fix the check `output_is_as_planned` first")

    @cached_property
    def output(self) -> Tensor:
        """The output (2, N', C') of `module` for `tokens()`."""
        return self.run(self.module, self.cases[0], self.tokens()).detach()


def options_of(example: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the options of `example`, changed by strings such as ``"window=2"``. Raises ConfigError."""
    return {**example, **overridden(Document({}, {(): Mark("--set")}), overrides).data}


def refused(rule: Any, *arguments: Any) -> tuple[Any, str]:
    """Return what a rule of a spec returns, or None and its reason if it refuses the arguments."""
    try:
        return rule(*arguments), ""
    except PluginError:  # the rule itself is wrong
        raise
    except VitaError as error:
        return None, str(error)
